// SPDX-License-Identifier: Apache-2.0
//
// From the type of a stack to its command line: what is described, how it is parsed, what every error says, what the help
// shows.

#include "buse/options.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "buse/description.h"
#include "buse/device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/passthrough.h"
#include "tests/leaves.h"

namespace buse::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// A leaf whose size and medium are positionals.
struct Disk {
  struct Config {
    uint64_t size = 0;
    std::string medium = "ram";
  };
  struct State {};
  static constexpr uint64_t kBlockSize = 1;
  static constexpr Concurrency kConcurrency = Concurrency::kParallel;
  static constexpr Description<Config, 2> Describe() {
    return {"disk",
            "keeps the bytes of a test",
            Family::kLeaf,
            {{{.field = &Config::size,
               .name = "size",
               .help = "size of the disk",
               .unit = Unit::kBytes,
               .positional = true,
               .required = true,
               .min = 1,
               .max = uint64_t{1} << 40},
              {.field = &Config::medium, .name = "medium", .help = "what the disk is made of", .positional = true}}}};
  }
  static absl::Status Open(const Config&, State&) { return absl::OkStatus(); }
  static uint64_t Size(const State&) { return 0; }
  static absl::Status Read(State&, uint64_t, Bytes) { return absl::OkStatus(); }
};

// A layer with an option of each type.
template <Device B>
struct Tuned {
  using Below = B;
  struct Config {
    uint64_t cache = 65536;
    uint64_t delay = 20;
    uint64_t lines = 16;
    bool eager = false;
    std::string label = "none";
    typename Below::Config below;
  };
  struct State {
    typename Below::State below;
  };
  static constexpr uint64_t kBlockSize = Below::kBlockSize;
  static constexpr Concurrency kConcurrency = Below::kConcurrency;
  static constexpr Description<Config, 5> Describe() {
    return {"tuned",
            "keeps what was read, so that it need not be read again, and says so in a sentence that is too long for one line",
            Family::kTransform,
            {{{.field = &Config::cache,
               .name = "cache",
               .help = "memory for what was read",
               .unit = Unit::kBytes,
               .min = 4096,
               .max = 1 << 30},
              {.field = &Config::delay,
               .name = "delay",
               .help = "how long to wait, which is said at such length that the line must be broken",
               .unit = Unit::kMilliseconds,
               .max = 1000},
              {.field = &Config::lines, .name = "lines", .help = "lines of the cache", .min = 2},
              {.field = &Config::eager, .name = "eager", .help = "reads ahead"},
              {.field = &Config::label, .name = "label", .help = "a name for the log"}}}};
  }
  static absl::Status Open(const Config&, State&) { return absl::OkStatus(); }
  static uint64_t Size(const State&) { return 0; }
  static absl::Status Read(State&, uint64_t, Bytes) { return absl::OkStatus(); }
};

template <Device... Legs>
struct Pair {
  using Below = std::tuple<Legs...>;
  struct Config {
    std::tuple<typename Legs::Config...> below;
  };
  struct State {
    std::tuple<typename Legs::State...> below;
  };
  static constexpr uint64_t kBlockSize = 1;
  static constexpr Concurrency kConcurrency = Concurrency::kSerial;
  static constexpr Description<Config> Describe() { return {"pair", "writes to both", Family::kRemap}; }
  static absl::Status Open(const Config&, State&) { return absl::OkStatus(); }
  static uint64_t Size(const State&) { return 0; }
  static absl::Status Read(State&, uint64_t, Bytes) { return absl::OkStatus(); }
};

// The options of a server, one of which has a name that a layer has too.
struct ServerConfig {
  std::string target;
  uint64_t lines = 7;
  bool verbose = false;
  std::string key;
};
constexpr Description<ServerConfig, 3> DescribeServer() {
  return {"server",
          "serves",
          Family::kLeaf,
          {{{.field = &ServerConfig::target, .name = "target", .help = "where to serve", .positional = true, .required = true},
            {.field = &ServerConfig::lines, .name = "lines", .help = "lines of the log"},
            {.field = &ServerConfig::verbose, .name = "verbose", .help = "says more", .letter = 'v'}}}};
}

Program TestProgram() {
  return {.name = "prog",
          .summary = "Serves a disk for a test.",
          .examples = "prog 1G nbd://localhost/\n\nprog 2G /dev/nbd0\n",
          .exit_codes = "0  fine\n1  not"};
}

absl::StatusOr<ParseResult> Parse(std::vector<const char*> arguments, std::vector<LayerInfo> layers) {
  arguments.insert(arguments.begin(), "prog");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data(), TestProgram(), layers);
}

std::vector<std::string> Names(const std::vector<LayerInfo>& layers) {
  std::vector<std::string> names;
  for (const LayerInfo& layer : layers) {
    for (const OptionInfo& option : layer.options) names.push_back(option.name);
  }
  return names;
}

// Tuned over a disk, and a server.
struct Fixture {
  using Stack = Tuned<Disk>;
  Stack::Config config;
  ServerConfig server;
  std::vector<LayerInfo> layers = Describe();

  std::vector<LayerInfo> Describe() {
    std::vector<LayerInfo> all = DescribeStack<Stack>(config);
    all.push_back(DescribeOptions(DescribeServer(), server));
    return all;
  }
};

TEST(DescribeStackTest, LayersComeOutermostFirstAndPointIntoTheConfig) {
  using Stack = Passthrough<Passthrough<Full>>;
  Stack::Config config;
  const std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  ASSERT_EQ(layers.size(), 3u);
  EXPECT_EQ(layers[0].name, "passthrough");
  EXPECT_EQ(layers[0].family, Family::kObserver);
  EXPECT_EQ(layers[0].depth, 0);
  EXPECT_EQ(layers[1].depth, 1);
  EXPECT_EQ(layers[2].name, "leaf");
  EXPECT_EQ(layers[2].summary, "keeps bytes for a test");
  EXPECT_EQ(layers[2].depth, 2);
  ASSERT_EQ(layers[2].options.size(), 1u);
  EXPECT_EQ(std::get<uint64_t*>(layers[2].options[0].value), &config.below.below.size);
}

TEST(DescribeStackTest, BranchesFollowEachOtherAtOneDepth) {
  using Stack = Pair<Passthrough<Disk>, Full, Disk>;
  Stack::Config config;
  const std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  std::vector<std::pair<std::string, int>> shape;
  for (const LayerInfo& layer : layers) shape.emplace_back(layer.name, layer.depth);
  EXPECT_EQ(shape,
            (std::vector<std::pair<std::string, int>>{{"pair", 0}, {"passthrough", 1}, {"disk", 2}, {"leaf", 1}, {"disk", 1}}));
  EXPECT_EQ(std::get<uint64_t*>(layers[2].options[0].value), &std::get<0>(config.below).below.size);
  EXPECT_EQ(std::get<uint64_t*>(layers[4].options[0].value), &std::get<2>(config.below).size);
}

TEST(DescribeOptionsTest, OptionsOfNoLayerHaveNoDepth) {
  ServerConfig server;
  const LayerInfo layer = DescribeOptions(DescribeServer(), server);
  EXPECT_EQ(layer.depth, LayerInfo::kNoLayer);
  EXPECT_EQ(std::get<std::string*>(layer.options[0].value), &server.target);
}

TEST(MakeNamesDistinctTest, TheSecondOfANameIsNumberedAndTheServersKeepTheirs) {
  using Stack = Tuned<Pair<Disk, Tuned<Disk>, Disk>>;
  Stack::Config config;
  ServerConfig server;
  std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  layers.push_back(DescribeOptions(DescribeServer(), server));
  MakeNamesDistinct(layers);
  const std::vector<std::string> names = {"cache",   "delay",    "lines-2", "eager",   "label",   "size",   "medium",
                                          "cache-2", "delay-2",  "lines-3", "eager-2", "label-2", "size-2", "medium-2",
                                          "size-3",  "medium-3", "target",  "lines",   "verbose"};
  EXPECT_EQ(Names(layers), names);
  MakeNamesDistinct(layers);
  EXPECT_EQ(Names(layers), names);
}

TEST(MakeNamesDistinctTest, NumberedNamesAvoidThoseThatAreTaken) {
  struct Config {
    bool a = false, b = false, c = false;
  } outer, inner;
  const Description<Config, 3> description = {"layer",
                                              "has names that look numbered",
                                              Family::kLeaf,
                                              {{{.field = &Config::a, .name = "on", .help = ""},
                                                {.field = &Config::b, .name = "on-2", .help = ""},
                                                {.field = &Config::c, .name = "help", .help = ""}}}};
  std::vector<LayerInfo> layers = {DescribeOptions(description, outer), DescribeOptions(description, inner)};
  layers[0].depth = 0;
  layers[1].depth = 1;
  MakeNamesDistinct(layers);
  EXPECT_EQ(Names(layers), (std::vector<std::string>{"on", "on-2", "help-2", "on-3", "on-2-2", "help-3"}));
}

TEST(ParseCommandLineTest, EveryTypeOfOptionIsSet) {
  Fixture f;
  const absl::StatusOr<ParseResult> result = Parse({"--cache=8K", "128M", "--delay", "0x10", "--eager", "-v",
                                                    "--label=", "file", "--lines-2", "3", "--lines=0x1F", "/dev/nbd0"},
                                                   f.layers);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(*result, ParseResult::kRun);
  EXPECT_EQ(f.config.cache, 8192u);
  EXPECT_EQ(f.config.delay, 16u);
  EXPECT_EQ(f.config.lines, 3u);
  EXPECT_TRUE(f.config.eager);
  EXPECT_EQ(f.config.label, "");
  EXPECT_EQ(f.config.below.size, uint64_t{128} << 20);
  EXPECT_EQ(f.config.below.medium, "file");
  EXPECT_EQ(f.server.lines, 31u);
  EXPECT_TRUE(f.server.verbose);
  EXPECT_EQ(f.server.target, "/dev/nbd0");
}

TEST(ParseCommandLineTest, WhatIsNotGivenKeepsItsDefault) {
  Fixture f;
  const absl::StatusOr<ParseResult> result = Parse({"1", "nbd://h/"}, f.layers);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(f.config.cache, 65536u);
  EXPECT_EQ(f.config.delay, 20u);
  EXPECT_EQ(f.config.lines, 16u);
  EXPECT_FALSE(f.config.eager);
  EXPECT_EQ(f.config.label, "none");
  EXPECT_EQ(f.config.below.size, 1u);
  EXPECT_EQ(f.config.below.medium, "ram") << "an optional positional goes without for a required one behind it";
  EXPECT_EQ(f.server.target, "nbd://h/");
}

TEST(ParseCommandLineTest, LimitsAreInclusive) {
  Fixture f;
  ASSERT_TRUE(Parse({"1", "t", "--cache", "4K", "--delay", "0"}, f.layers).ok());
  EXPECT_EQ(f.config.cache, 4096u);
  EXPECT_EQ(f.config.delay, 0u);
  ASSERT_TRUE(Parse({"1T", "t", "--cache", "1G", "--delay", "1000"}, f.layers).ok());
  EXPECT_EQ(f.config.cache, uint64_t{1} << 30);
  EXPECT_EQ(f.config.delay, 1000u);
}

TEST(ParseCommandLineTest, TextIsTakenAsItIs) {
  for (const char* text : {"", "-", "--eager", "a b", "[a,b]", "a=b", "++", "{x}", "-1", "--", "\xc3\xa4"}) {
    Fixture f;
    const absl::StatusOr<ParseResult> result = Parse({"--label", text, "1", "t"}, f.layers);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(f.config.label, text);
  }
  for (const char* text : {"", "-", "--eager", "--eager=", "--label=", "-x", "++", "[a,b]", "--"}) {
    Fixture f;
    const absl::StatusOr<ParseResult> result = Parse({"--", "1", text}, f.layers);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(f.server.target, text);
    EXPECT_FALSE(f.config.eager);
  }
}

TEST(ParseCommandLineTest, TwoLayersOfOneKindAreSetApart) {
  using Stack = Pair<Disk, Passthrough<Disk>>;
  Stack::Config config;
  const absl::StatusOr<ParseResult> result = Parse({"1K", "file", "2K"}, DescribeStack<Stack>(config));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(std::get<0>(config.below).size, 1024u);
  EXPECT_EQ(std::get<0>(config.below).medium, "file");
  EXPECT_EQ(std::get<1>(config.below).below.size, 2048u);
  EXPECT_EQ(std::get<1>(config.below).below.medium, "ram");
  EXPECT_EQ(Parse({"1K", "file", "0"}, DescribeStack<Stack>(config)).status().message(),
            "size-2: 0 is below the least, 1 byte");
}

TEST(ParseCommandLineTest, EveryMistakeHasOneSentence) {
  const std::string sizes = "give bytes, or a number with K, M, G, T, P or E, such as 128M";
  const std::string usage = "usage: prog [OPTION]... SIZE [MEDIUM] TARGET";
  const std::vector<std::pair<std::vector<const char*>, std::string>> table = {
      {{}, "size: missing; " + usage},
      {{"1G"}, "target: missing; " + usage},
      {{"1G", "ram", "t", "more"}, "\"more\": one argument too many; " + usage},
      {{"12Q", "t"}, "size: \"12Q\" is no size: " + sizes},
      {{"-1", "t"}, "size: \"-1\" is negative: " + sizes},
      {{"-1"}, "size: \"-1\" is negative: " + sizes},
      {{"--", "-1", "t"}, "size: \"-1\" is negative: " + sizes},
      {{"", "t"}, "size: \"\" is no size: " + sizes},
      {{"0", "t"}, "size: 0 is below the least, 1 byte"},
      {{"2T", "t"}, "size: 2T is above the most, 1 TiB"},
      {{"16E", "t"}, "size: \"16E\" is too large: the most is 18446744073709551615 bytes, one less than 16E"},
      {{"1", "t", "--cache", "1K"}, "--cache: 1K is below the least, 4 KiB"},
      {{"1", "t", "--cache", "-1"}, "--cache: \"-1\" is negative: " + sizes},
      {{"1", "t", "--cache="}, "--cache: \"\" is no size: " + sizes},
      {{"1", "t", "--delay", "1001"}, "--delay: 1001 is above the most, 1000 ms"},
      {{"1", "t", "--delay", "5s"}, "--delay: \"5s\" is no number of milliseconds: give a whole number, such as 250"},
      {{"1", "t", "--lines-2", "1"}, "--lines-2: 1 is below the least, 2"},
      {{"1", "t", "--lines", "1K"}, "--lines: \"1K\" is no number: give a whole number, such as 16 or 0x10"},
      {{"1", "t", "--lines", "-1"}, "--lines: \"-1\" is no number: give a whole number, such as 16 or 0x10"},
      {{"1", "t", "--lines", " 1"}, "--lines: \" 1\" is no number: give a whole number, such as 16 or 0x10"},
      {{"1", "t", "--lines", "0x"}, "--lines: \"0x\" is no number: give a whole number, such as 16 or 0x10"},
      {{"1", "t", "--lines", "0x-1"}, "--lines: \"0x-1\" is no number: give a whole number, such as 16 or 0x10"},
      {{"1", "t", "--lines", "99999999999999999999"},
       "--lines: \"99999999999999999999\" is too large: the most is 18446744073709551615"},
      {{"1", "t", "--cache", "4K", "--cache=8K"}, "--cache: given 2 times; give it once"},
      {{"1", "t", "--cache"}, "--cache: needs a value; give --cache SIZE"},
      {{"1", "t", "--eager=no"}, "--eager: takes no value, so leave out \"=no\""},
      {{"1", "t", "--cahce=4K"}, "--cahce: unknown option; did you mean --cache?"},
      {{"1", "t", "--ded", "4"}, "--ded: unknown option; --help lists those there are"},
      {{"1", "t", "--del", "4"}, "--del: unknown option; did you mean --delay?"},
      {{"1", "t", "-cache"}, "-cache: unknown option; did you mean --cache?"},
      {{"1", "t", "--hlep"}, "--hlep: unknown option; did you mean --help?"},
      {{"1", "t", "-x"}, "-x: unknown option; --help lists those there are"},
      {{"1", "t", "---"}, "---: unknown option; --help lists those there are"},
      {{"1", "t", "--a\nb"}, "--a\\nb: unknown option; --help lists those there are"},
      {{"--size=1", "t"}, "--size: unknown option; give SIZE without its name: " + usage},
  };
  for (const auto& [arguments, sentence] : table) {
    Fixture f;
    const absl::StatusOr<ParseResult> result = Parse(arguments, f.layers);
    ASSERT_FALSE(result.ok()) << "expected: " << sentence;
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(result.status().message(), sentence);
  }
}

TEST(ParseCommandLineTest, ARequiredOptionMustBeGiven) {
  struct Config {
    std::string key;
  } config;
  const Description<Config, 1> description = {
      "locked",
      "needs a key",
      Family::kTransform,
      {{{.field = &Config::key, .name = "key", .help = "the file with the key", .required = true}}}};
  const std::vector<LayerInfo> layers = {DescribeOptions(description, config)};
  EXPECT_EQ(Parse({}, layers).status().message(), "--key: missing; give --key TEXT, the file with the key");
  EXPECT_TRUE(Parse({"--key", "k"}, layers).ok());
  EXPECT_EQ(config.key, "k");
  EXPECT_THAT(Help(TestProgram(), layers),
              AllOf(HasSubstr("Usage: prog [OPTION]... --key TEXT\n"), HasSubstr("the file with the key (required)\n")));
}

TEST(ParseCommandLineTest, MicrosecondsAreSaidInEveryPlace) {
  struct Config {
    uint64_t pause = 30;
  } config;
  const Description<Config, 1> description = {
      "pausing",
      "pauses",
      Family::kObserver,
      {{{.field = &Config::pause, .name = "pause", .help = "how long", .unit = Unit::kMicroseconds, .max = 500}}}};
  const std::vector<LayerInfo> layers = {DescribeOptions(description, config)};
  EXPECT_THAT(Help(TestProgram(), layers), HasSubstr("--pause US  how long (at most 500 us, default 30 us)\n"));
  EXPECT_EQ(Parse({"--pause", "501"}, layers).status().message(), "--pause: 501 is above the most, 500 us");
  EXPECT_EQ(Parse({"--pause", "5s"}, layers).status().message(),
            "--pause: \"5s\" is no number of microseconds: give a whole number, such as 250");
  EXPECT_TRUE(Parse({"--pause", "500"}, layers).ok());
  EXPECT_EQ(config.pause, 500u);
}

TEST(ParseCommandLineTest, HelpWinsOverMistakesElsewhere) {
  for (const char* flag : {"--help", "-h"}) {
    Fixture f;
    ::testing::internal::CaptureStdout();
    const absl::StatusOr<ParseResult> result = Parse({"12Q", "--nonsense", flag}, f.layers);
    const std::string printed = ::testing::internal::GetCapturedStdout();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(*result, ParseResult::kHelp);
    EXPECT_EQ(printed, Help(TestProgram(), f.layers));
  }
}

TEST(HelpTest, EverythingIsThereInItsOrder) {
  Fixture f;
  const std::string help = Help(TestProgram(), f.layers);
  const std::vector<std::string> lines = {
      "Usage: prog [OPTION]... SIZE [MEDIUM] TARGET\n\nServes a disk for a test.\n",
      "\nThe stack, outermost first:\n",
      "\n  tuned    keeps what was read,",
      "\n  │        ",
      "\n  └─ disk  keeps the bytes of a test\n",
      "\nArguments:\n",
      "\n  SIZE           size of the disk (1 byte to 1 TiB)\n",
      "\n  MEDIUM         what the disk is made of (default ram)\n",
      "\n  TARGET         where to serve\n",
      "\nOptions of tuned:\n",
      "\n  --cache SIZE   memory for what was read (4 KiB to 1 GiB, default 64 KiB)\n",
      "\n  --delay MS     how long to wait, ",
      "(at most 1000 ms, default 20 ms)\n",
      "\n  --lines-2 N    lines of the cache (at least 2, default 16)\n",
      "\n  --eager        reads ahead\n",
      "\n  --label TEXT   a name for the log (default none)\n",
      "\nOptions of server:\n",
      "\n  --lines N      lines of the log (default 7)\n",
      "\n  -v, --verbose  says more\n",
      "\n  -h, --help    ",
      "\nA size is in bytes, or a number with K, M, G, T, P or E: powers of 1024.\n",
      "\nExamples:\n  prog 1G nbd://localhost/\n\n  prog 2G /dev/nbd0\n",
      "\nExit codes:\n  0  fine\n  1  not\n",
  };
  size_t at = 0;
  for (const std::string& line : lines) {
    // The end of one line may be the beginning of the next.
    const size_t found = help.find(line, at);
    ASSERT_NE(found, std::string::npos) << line << "\nis not where it belongs in\n" << help;
    at = found + line.size() - 1;
  }
  EXPECT_THAT(help, Not(HasSubstr("Options of disk"))) << "it has positionals only";
}

TEST(HelpTest, NoLineIsLongerThan80ColumnsOrEndsInASpace) {
  using Stack = Tuned<Pair<Tuned<Passthrough<Tuned<Disk>>>, Tuned<Disk>, Disk>>;
  Stack::Config config;
  ServerConfig server;
  std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  layers.push_back(DescribeOptions(DescribeServer(), server));
  const std::string help = Help(TestProgram(), layers);
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(help, '\n'))) {
    const auto columns = std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; });
    EXPECT_LE(columns, 80) << line;
    EXPECT_FALSE(absl::EndsWith(line, " ")) << line;
  }
  EXPECT_THAT(help, AllOf(HasSubstr("\nOptions of tuned:\n"), HasSubstr("\nOptions of tuned-4:\n"), HasSubstr("\n  SIZE-3 ")));
}

TEST(HelpTest, AProgramWithoutOptionsOfItsOwnStillHasHelp) {
  Passthrough<Disk>::Config config;
  EXPECT_THAT(Help(TestProgram(), DescribeStack<Passthrough<Disk>>(config)), HasSubstr("\nOptions:\n  -h, --help  "));
}

TEST(DrawStackTest, OneLayerIsOneLine) {
  Disk::Config config;
  EXPECT_EQ(DrawStack(DescribeStack<Disk>(config)), "disk  keeps the bytes of a test\n");
}

TEST(DrawStackTest, BranchesAreDrawnAsBranches) {
  using Stack = Passthrough<Pair<Passthrough<Disk>, Full, Pair<Disk, Disk>>>;
  Stack::Config config;
  ServerConfig server;
  std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  layers.push_back(DescribeOptions(DescribeServer(), server));
  EXPECT_EQ(DrawStack(layers),
            "passthrough          hands every operation on\n"
            "└─ pair              writes to both\n"
            "   ├─ passthrough-2  hands every operation on\n"
            "   │  └─ disk        keeps the bytes of a test\n"
            "   ├─ leaf           keeps bytes for a test\n"
            "   └─ pair-2         writes to both\n"
            "      ├─ disk-2      keeps the bytes of a test\n"
            "      └─ disk-3      keeps the bytes of a test\n");
}

TEST(DrawStackTest, ALongSentenceIsBrokenBesideTheLines) {
  using Stack = Pair<Tuned<Disk>, Tuned<Full>>;
  Stack::Config config;
  EXPECT_EQ(DrawStack(DescribeStack<Stack>(config)),
            "pair        writes to both\n"
            "├─ tuned    keeps what was read, so that it need not be read again, and says so\n"
            "│  │        in a sentence that is too long for one line\n"
            "│  └─ disk  keeps the bytes of a test\n"
            "└─ tuned-2  keeps what was read, so that it need not be read again, and says so\n"
            "   │        in a sentence that is too long for one line\n"
            "   └─ leaf  keeps bytes for a test\n");
}

}  // namespace
}  // namespace buse::testing
