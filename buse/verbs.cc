// SPDX-License-Identifier: Apache-2.0

#include "buse/verbs.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "layers/describe_medium.h"

namespace buse {
namespace {

using std::chrono::steady_clock;

constexpr std::chrono::milliseconds kQuiet(1000);
constexpr std::chrono::milliseconds kRedraw(200);

struct VerbInfo {
  Verb verb;
  const char* name;
  const char* summary;   // in the help of the program, after an example
  const char* sentence;  // of the verb's own help
};

constexpr VerbInfo kVerbs[] = {
    {Verb::kFormat, "format", "makes the medium; what it held is lost",
     "Makes the medium that the program serves. What it held is destroyed: where it holds something, --force must say so."},
    {Verb::kCheck, "check", "reads all of it and lists what is damaged",
     "Reads all that the medium holds and lists what is damaged, with offsets of the disk that is served."},
    {Verb::kDescribe, "describe", "says what lies on a medium",
     "Says what lies on a medium: the layers it was made for, its sizes, and whether its superblock is sound."},
    {Verb::kStatus, "status", "says how the legs are, and what to do",
     "Shows what a server keeps with --status: how each leg is, how far it is with them, and what to do."},
};

const VerbInfo& InfoOf(Verb verb) {
  for (const VerbInfo& info : kVerbs) {
    if (info.verb == verb) return info;
  }
  return kVerbs[0];
}

bool Has(const Program& program, const VerbInfo& info) { return info.verb != Verb::kStatus || program.keeps_status; }

// What it takes, by example.
std::string ArgumentsOf(const Program& program, Verb verb) {
  return verb == Verb::kDescribe ? " disk.img" : verb == Verb::kStatus ? " status.json" : program.arguments;
}

Verb VerbNamed(const Program& program, absl::string_view text) {
  for (const VerbInfo& info : kVerbs) {
    if (text == info.name && Has(program, info)) return info.verb;
  }
  return Verb::kNone;
}

std::string Counted(uint64_t number, const char* one, const char* many) {
  return absl::StrCat(number, " ", number == 1 ? one : many);
}

}  // namespace

// ---- Progress and findings.

ProgressLine::ProgressLine(std::FILE* out) : ProgressLine(out, isatty(fileno(out)) == 1, [] { return steady_clock::now(); }) {}

ProgressLine::ProgressLine(std::FILE* out, bool terminal, Clock clock)
    : out_(out), terminal_(terminal), clock_(std::move(clock)), began_(clock_()) {}

void ProgressLine::Begin(std::string what) {
  Clear();
  what_ = std::move(what);
  began_ = clock_();
  tenths_ = 0;
}

void ProgressLine::Update(uint64_t done, uint64_t total) {
  if (total == 0) return;
  const auto now = clock_();
  if (now - began_ < kQuiet) return;
  const uint64_t percent = total >= 100 ? done / (total / 100) : done * 100 / total;
  const std::string line = absl::StrCat(what_, ": ", percent < 100 ? percent : 100, " % of ", FormatSizeRoughly(total));
  if (!terminal_) {
    if (percent / 10 <= tenths_) return;
    tenths_ = percent / 10;
    std::fprintf(out_, "%s\n", line.c_str());
    return;
  }
  if (shown_ && now - drawn_ < kRedraw) return;
  std::fprintf(out_, "\r%s\x1b[K", line.c_str());
  std::fflush(out_);
  shown_ = true;
  drawn_ = now;
}

void ProgressLine::Clear() {
  if (!shown_) return;
  std::fputs("\r\x1b[K", out_);
  std::fflush(out_);
  shown_ = false;
}

void CheckFindings::BeginLayer(absl::string_view name, uint64_t size) {
  PrintHeld();
  const int number = ++layers_[std::string(name)];
  layer_ = number == 1 ? std::string(name) : absl::StrCat(name, "-", number);
  checked_ += size;
}

void CheckFindings::Damaged(Range range, absl::string_view why) {
  bytes_ += range.length;
  if (held_.length > 0 && held_.end() == range.offset && why_ == why) {
    held_.length += range.length;
    return;
  }
  PrintHeld();
  ++ranges_;
  held_ = range;
  why_ = std::string(why);
}

void CheckFindings::Flawed(absl::string_view what) {
  PrintHeld();
  ++flaws_;
  progress_.Clear();
  std::printf("%s: flaw: %s\n", layer_.c_str(), std::string(what).c_str());
  std::fflush(stdout);
}

void CheckFindings::PrintHeld() {
  if (held_.length == 0) return;
  progress_.Clear();
  std::printf("%s: damaged: offset %llu, length %llu: %s\n", layer_.c_str(), static_cast<unsigned long long>(held_.offset),
              static_cast<unsigned long long>(held_.length), why_.c_str());
  std::fflush(stdout);
  held_ = {};
}

std::string CheckFindings::End() {
  PrintHeld();
  progress_.Clear();
  std::string sum = absl::StrCat(FormatSizeRoughly(checked_), " checked: ");
  if (sound()) return sum + "all sound";
  if (ranges_ == 0) absl::StrAppend(&sum, "no data is damaged");
  if (ranges_ > 0) absl::StrAppend(&sum, FormatSize(bytes_), " damaged in ", Counted(ranges_, "range", "ranges"));
  if (flaws_ > 0) absl::StrAppend(&sum, ", ", Counted(flaws_, "flaw", "flaws"), " besides");
  return sum;
}

// ---- Command lines.

Verb VerbOf(const Program& program, int argc, const char* const* argv) {
  return argc > 1 ? VerbNamed(program, argv[1]) : Verb::kNone;
}

std::string VerbsHelp(const Program& program) {
  std::vector<std::pair<std::string, const char*>> rows;
  size_t width = 0;
  for (const VerbInfo& info : kVerbs) {
    if (!Has(program, info)) continue;
    rows.emplace_back(absl::StrCat(info.name, ArgumentsOf(program, info.verb)), info.summary);
    width = std::max(width, rows.back().first.size());
  }
  std::string help;
  for (const auto& [usage, summary] : rows) {
    absl::StrAppend(&help, program.name, " ", usage, std::string(width - usage.size() + 2, ' '), summary, "\n");
  }
  return help + program.name + " VERB --help explains each\n";
}

Program ProgramOfVerb(const Program& program, Verb verb) {
  const VerbInfo& info = InfoOf(verb);
  const std::string name = absl::StrCat(program.name, " ", info.name, program.of.empty() ? "" : " ", program.of);
  std::string examples = absl::StrCat(name, ArgumentsOf(program, verb), "\n");
  if (verb == Verb::kFormat) absl::StrAppend(&examples, name, program.arguments, " --create 10G\n");
  Program made = program;
  made.name = name;
  made.summary = info.sentence;
  made.examples = examples;
  made.verbs.clear();
  return made;
}

void LeaveShapingToFormat(const std::string& program, std::vector<LayerInfo>& layers) {
  for (LayerInfo& layer : layers) {
    for (OptionInfo& option : layer.options) {
      if (option.shapes_medium) option.refused = absl::StrCat("only ", program, " format takes it, which makes the medium");
    }
  }
}

absl::Status CheckNoVerbMisplaced(const Program& program, const std::vector<LayerInfo>& layers) {
  for (const LayerInfo& layer : layers) {
    for (const OptionInfo& option : layer.options) {
      auto* const* text = std::get_if<std::string*>(&option.value);
      if (text == nullptr || !option.positional || VerbNamed(program, **text) == Verb::kNone) continue;
      return absl::InvalidArgumentError(absl::StrCat("\"", **text, "\": a verb comes first, as in: ", program.name, " ", **text,
                                                     " disk.img. If this is a file's name, write ./", **text));
    }
  }
  return absl::OkStatus();
}

absl::Status WithVerbs(const Program& program, absl::Status status) {
  if (!absl::IsInvalidArgument(status)) return status;
  std::vector<std::string> names;
  for (const VerbInfo& info : kVerbs) {
    if (Has(program, info)) names.push_back(info.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(status.message(), ". (The verbs are ", absl::StrJoin(names, ", "), "; one comes first.)"));
}

std::string FilesOf(const std::vector<LayerInfo>& layers) {
  const std::vector<std::string> files = MediaOf(layers);
  return files.empty() ? "the medium" : absl::StrJoin(files, ", ");
}

absl::Status MayFormatOver(const std::string& file, const absl::StatusOr<std::string>& contents, bool force) {
  if (force) return absl::OkStatus();
  if (!contents.ok()) {
    return absl::InternalError(absl::StrCat("it is not known what ", file, " holds: ", contents.status().message(),
                                            "; with --force it is formatted all the same"));
  }
  if (contents->empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(file, ": holds ", *contents, ", which a format destroys; with --force it is formatted all the same"));
}

int RunDescribe(const std::string& name, int argc, const char* const* argv) {
  struct Options {
    std::string path;
    static constexpr Description<Options, 1> Describe() {
      return {"describe",
              "says what lies on a medium",
              Family::kLeaf,  // of no stack, so of no family
              {{{.field = &Options::path,
                 .name = "path",
                 .help = "file or block device; it is only read, and may be in use",
                 .positional = true,
                 .required = true}}}};
    }
  };
  const Program program = {.name = name,
                           .summary = InfoOf(Verb::kDescribe).sentence,
                           .examples = name + " disk.img\n",
                           .exit_codes =
                               "0  there is a medium of ours, and its superblocks are sound\n"
                               "1  there is none, or it cannot be read\n"
                               "2  wrong usage\n"
                               "3  no such file\n"
                               "5  there is one whose superblock or size is damaged\n"};
  Options options;
  std::vector<LayerInfo> layers = {DescribeOptions(Options::Describe(), options)};
  const absl::StatusOr<ParseResult> parsed = ParseCommandLine(argc, argv, program, layers);
  if (!parsed.ok()) return ExitWith(program.name, parsed.status());
  if (*parsed == ParseResult::kHelp) return kExitOk;
  const absl::StatusOr<MediumDescription> medium = DescribeMediumAt(options.path);
  if (!medium.ok()) return ExitWith(program.name, medium.status());
  std::fputs(medium->text.c_str(), stdout);
  if (!medium->ours) return kExitFailure;
  return medium->damaged ? kExitDamaged : kExitOk;
}

}  // namespace buse
