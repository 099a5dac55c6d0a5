// SPDX-License-Identifier: Apache-2.0
//
// The command line of a stack. CLI11 tells options, their values and positionals apart; what they mean, and every error, is
// decided here, because a message must name the value and the limit.

#include "buse/options.h"

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cstdio>
#include <set>
#include <system_error>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "buse/option_words.h"
#include "buse/size.h"

namespace buse {
namespace {

using namespace options_internal;

std::string Quoted(absl::string_view text) { return absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\""); }

template <class... Text>
absl::Status Refused(const Text&... text) {
  return absl::InvalidArgumentError(absl::StrCat(text...));
}

std::string UsageLine(const Program& program, const std::vector<LayerInfo>& layers) {
  return absl::StrCat("usage: ", absl::StrJoin(Usage(program, layers), " "));
}

// What follows a text that is no number.
const char* Accepted(Unit unit) {
  if (unit == Unit::kMilliseconds) return "is no number of milliseconds: give a whole number, such as 250";
  if (unit == Unit::kMicroseconds) return "is no number of microseconds: give a whole number, such as 250";
  return "is no number: give a whole number, such as 16 or 0x10";
}

absl::StatusOr<uint64_t> ParseNumber(absl::string_view text, Unit unit) {
  if (unit == Unit::kBytes) return ParseSize(text);
  absl::string_view digits = text;
  const int base = absl::ConsumePrefix(&digits, "0x") || absl::ConsumePrefix(&digits, "0X") ? 16 : 10;
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number, base);
  if (end != digits.data() + digits.size() || error == std::errc::invalid_argument) {
    return Refused(Quoted(text), " ", Accepted(unit));
  }
  if (error == std::errc::result_out_of_range) return Refused(Quoted(text), " is too large: the most is ", UINT64_MAX);
  return number;
}

absl::Status Assign(const OptionInfo& option, const std::string& text) {
  if (auto* const* field = std::get_if<std::string*>(&option.value)) {
    **field = text;
    return absl::OkStatus();
  }
  const absl::StatusOr<uint64_t> number = ParseNumber(text, option.unit);
  if (!number.ok()) return Refused(Spelled(option), ": ", number.status().message());
  if (*number < option.min) {
    return Refused(Spelled(option), ": ", text, " is below the least, ", Format(option.unit, option.min));
  }
  if (*number > option.max) {
    return Refused(Spelled(option), ": ", text, " is above the most, ", Format(option.unit, option.max));
  }
  *std::get<uint64_t*>(option.value) = *number;
  return absl::OkStatus();
}

// How many letters to insert, remove, replace or swap with their neighbour to get from one word to the other.
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, cost[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
    }
  }
  return cost[a.size()][b.size()];
}

absl::Status UnknownOption(absl::string_view argument, const Program& program, const std::vector<LayerInfo>& layers) {
  const absl::string_view dashed = argument.substr(0, argument.find('='));
  const std::string what = absl::StrCat(absl::Utf8SafeCEscape(dashed), ": unknown option; ");
  const absl::string_view name = absl::StripPrefix(absl::StripPrefix(dashed, "-"), "-");
  for (const OptionInfo* option : Positionals(layers)) {
    if (option->name == name) {
      return Refused(what, "give ", Label(*option), " without its name: ", UsageLine(program, layers));
    }
  }
  std::string nearest;
  // Suggested is what differs by one slip in three letters at most.
  size_t least = std::max<size_t>(1, name.size() / 3) + 1;
  const auto consider = [&](absl::string_view candidate) {
    if (name.size() > kWidth) return;
    const bool abbreviated = name.size() > 1 && absl::StartsWith(candidate, name);
    const size_t distance = abbreviated ? 1 : Distance(name, candidate);
    if (distance < least) {
      least = distance;
      nearest = std::string(candidate);
    }
  };
  for (const OptionInfo* option : Select(layers, [](const OptionInfo& o) { return !o.positional; })) consider(option->name);
  consider(kHelpName);
  if (nearest.empty()) return Refused(what, "--help lists those there are");
  return Refused(what, "did you mean ", Dashed(nearest), "?");
}

// What CLI11 found.
struct Arguments {
  struct Given {
    const OptionInfo* option;
    std::vector<std::string> values;  // of a flag, "true" for each time it was given
  };
  bool help = false;
  std::vector<Given> given;
  std::vector<std::string> positionals;
};

// The arguments, last first as CLI11 takes them. It would take what follows "--name=" as its value, so that an empty value
// becomes an argument of its own.
std::vector<std::string> Reversed(int argc, const char* const* argv, const std::vector<LayerInfo>& layers) {
  std::vector<std::string> arguments;
  bool options = true;
  for (int at = 1; at < argc; ++at) {
    absl::string_view argument = argv[at];
    options = options && argument != "--";
    const bool empty_value = options && absl::ConsumeSuffix(&argument, "=") &&
                             !Select(layers, [&](const OptionInfo& option) {
                                return !option.positional && !IsFlag(option) && Dashed(option.name) == argument;
                              }).empty();
    arguments.emplace_back(empty_value ? std::string(argument) : argv[at]);
    if (empty_value) arguments.emplace_back();
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

absl::StatusOr<Arguments> Tokenize(int argc, const char* const* argv, const Program& program,
                                   const std::vector<LayerInfo>& layers) {
  Arguments arguments;
  std::vector<std::string> rest;
  try {
    CLI::App app;
    app.allow_extras();
    app.set_help_flag();
    CLI::Option* help = app.add_flag("-h,--help");
    std::vector<std::pair<const OptionInfo*, CLI::Option*>> options;
    for (const OptionInfo* option : Select(layers, [](const OptionInfo& o) { return !o.positional; })) {
      std::string name = Dashed(option->name);
      if (option->letter != 0) absl::StrAppend(&name, ",-", std::string(1, option->letter));
      CLI::Option* added = IsFlag(*option) ? app.add_flag(name) : app.add_option(name);
      added->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
      options.emplace_back(option, added);
    }
    std::vector<std::string> reversed = Reversed(argc, argv, layers);
    app.parse(std::move(reversed));
    arguments.help = help->count() > 0;
    for (const auto& [option, found] : options) {
      if (found->count() > 0) arguments.given.push_back({option, found->results()});
    }
    rest = app.remaining();
  } catch (const CLI::ArgumentMismatch&) {
    // Only the last argument can lack its value.
    const auto lacking = Select(layers, [&](const OptionInfo& o) { return !o.positional && Dashed(o.name) == argv[argc - 1]; });
    return Refused(argv[argc - 1], ": needs a value; ", lacking.empty() ? "--help shows it" : "give " + Label(*lacking[0]));
  } catch (const CLI::Error& error) {
    return Refused(error.what());
  }
  if (arguments.help) return arguments;
  bool options = true;
  for (const std::string& argument : rest) {
    if (options && argument == "--") {
      options = false;
      continue;
    }
    // A number below zero is a bad value and no option.
    const bool dashed = options && argument.size() > 1 && argument[0] == '-' && !absl::ascii_isdigit(argument[1]);
    if (dashed) return UnknownOption(argument, program, layers);
    arguments.positionals.push_back(argument);
  }
  return arguments;
}

absl::Status AssignOptions(const std::vector<Arguments::Given>& given, const std::vector<LayerInfo>& layers) {
  for (const auto& [option, values] : given) {
    if (!option->refused.empty()) return Refused(Spelled(*option), ": ", option->refused);
    if (auto* const* flag = std::get_if<bool*>(&option->value)) {
      for (const std::string& value : values) {
        if (value != "true") return Refused(Spelled(*option), ": takes no value, so leave out ", Quoted("=" + value));
      }
      **flag = true;
      continue;
    }
    if (values.size() > 1) return Refused(Spelled(*option), ": given ", values.size(), " times; give it once");
    if (absl::Status status = Assign(*option, values[0]); !status.ok()) return status;
  }
  for (const OptionInfo* option : Select(layers, [](const OptionInfo& o) { return !o.positional && o.required; })) {
    const bool missing = std::none_of(given.begin(), given.end(), [&](const auto& one) { return one.option == option; });
    if (missing) return Refused(Spelled(*option), ": missing; give ", Label(*option), ", ", option->help);
  }
  return absl::OkStatus();
}

absl::Status AssignPositionals(const std::vector<std::string>& values, const Program& program,
                               const std::vector<LayerInfo>& layers) {
  const std::vector<const OptionInfo*> positionals = Positionals(layers);
  if (values.size() > positionals.size()) {
    return Refused(Quoted(values[positionals.size()]), ": one argument too many; ", UsageLine(program, layers));
  }
  const size_t required =
      std::count_if(positionals.begin(), positionals.end(), [](const OptionInfo* option) { return option->required; });
  size_t optional = values.size() - std::min(values.size(), required);
  auto value = values.begin();
  for (const OptionInfo* option : positionals) {
    if (!option->required && optional == 0) continue;
    if (!option->required) --optional;
    if (value == values.end()) return Refused(option->name, ": missing; ", UsageLine(program, layers));
    if (absl::Status status = Assign(*option, *value++); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

void MakeNamesDistinct(std::vector<LayerInfo>& layers) {
  std::set<std::string> taken = {std::string(kHelpName)};
  for (const LayerInfo& layer : layers) {
    if (InStack(layer)) continue;
    for (const OptionInfo& option : layer.options) {
      [[maybe_unused]] const bool added = taken.insert(option.name).second;
      assert(added && "an option that belongs to no layer has a name of its own");
    }
  }
  for (LayerInfo& layer : layers) {
    if (!InStack(layer)) continue;
    for (OptionInfo& option : layer.options) {
      option.letter = 0;  // the short forms are for what belongs to no layer
      const std::string name = option.name;
      for (int number = 2; !taken.insert(option.name).second; ++number) option.name = absl::StrCat(name, "-", number);
    }
  }
}

absl::StatusOr<ParseResult> ParseCommandLine(int argc, const char* const* argv, const Program& program,
                                             std::vector<LayerInfo>& layers) {
  MakeNamesDistinct(layers);
  const absl::StatusOr<Arguments> arguments = Tokenize(argc, argv, program, layers);
  if (!arguments.ok()) return arguments.status();
  if (arguments->help) {
    std::fputs(Help(program, layers).c_str(), stdout);
    return ParseResult::kHelp;
  }
  if (absl::Status status = AssignOptions(arguments->given, layers); !status.ok()) return status;
  if (absl::Status status = AssignPositionals(arguments->positionals, program, layers); !status.ok()) return status;
  return ParseResult::kRun;
}

std::vector<std::string> MediaOf(const std::vector<LayerInfo>& layers) {
  std::vector<std::string> media;
  for (const LayerInfo& layer : layers) {
    for (const OptionInfo& option : layer.options) {
      auto* const* text = std::get_if<std::string*>(&option.value);
      if (text != nullptr && option.positional && option.required) media.push_back(**text);
    }
  }
  return media;
}

}  // namespace buse
