// SPDX-License-Identifier: Apache-2.0
//
// Command line and help of a stack. CLI11 tells options, their values and positionals apart; what they mean, and every error,
// is decided here, because a message must name the value and the limit.

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
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "buse/size.h"

namespace buse {
namespace {

constexpr size_t kWidth = 80;
constexpr size_t kMaxLabel = 26;  // a longer label of the help stands on a line of its own
constexpr absl::string_view kHelpName = "help";

std::string Quoted(absl::string_view text) { return absl::StrCat("\"", absl::Utf8SafeCEscape(text), "\""); }

template <class... Text>
absl::Status Refused(const Text&... text) {
  return absl::InvalidArgumentError(absl::StrCat(text...));
}

bool InStack(const LayerInfo& layer) { return layer.depth != LayerInfo::kNoLayer; }
bool IsFlag(const OptionInfo& option) { return std::holds_alternative<bool*>(option.value); }
bool IsNumber(const OptionInfo& option) { return std::holds_alternative<uint64_t*>(option.value); }

std::string Dashed(absl::string_view name) { return absl::StrCat("--", name); }

// As errors name it: a positional has no dashes.
std::string Spelled(const OptionInfo& option) { return option.positional ? option.name : Dashed(option.name); }

// "--offset SIZE", "-v, --verbose", "TARGET": as the help names it.
std::string Label(const OptionInfo& option) {
  if (option.positional) return absl::AsciiStrToUpper(option.name);
  std::string label = Dashed(option.name);
  if (option.letter != 0) label = absl::StrCat("-", std::string(1, option.letter), ", ", label);
  if (IsFlag(option)) return label;
  if (!IsNumber(option)) return label + " TEXT";
  switch (option.unit) {
    case Unit::kNone:
      return label + " N";
    case Unit::kBytes:
      return label + " SIZE";
    case Unit::kMilliseconds:
      return label + " MS";
    case Unit::kMicroseconds:
      return label + " US";
  }
  return label;
}

std::string Format(Unit unit, uint64_t number) {
  switch (unit) {
    case Unit::kNone:
      return absl::StrCat(number);
    case Unit::kBytes:
      return FormatSize(number);
    case Unit::kMilliseconds:
      return absl::StrCat(number, " ms");
    case Unit::kMicroseconds:
      return absl::StrCat(number, " us");
  }
  return absl::StrCat(number);
}

// The options that `choose` accepts, in the order of the stack, then those of no layer.
template <class Choose>
std::vector<const OptionInfo*> Select(const std::vector<LayerInfo>& layers, Choose choose) {
  std::vector<const OptionInfo*> selected;
  for (bool in_stack : {true, false}) {
    for (const LayerInfo& layer : layers) {
      if (InStack(layer) != in_stack) continue;
      for (const OptionInfo& option : layer.options) {
        if (choose(option)) selected.push_back(&option);
      }
    }
  }
  return selected;
}

std::vector<const OptionInfo*> Positionals(const std::vector<LayerInfo>& layers) {
  return Select(layers, [](const OptionInfo& option) { return option.positional; });
}

// What follows "Usage: ", as words that are not to be broken.
std::vector<std::string> Usage(const Program& program, const std::vector<LayerInfo>& layers) {
  std::vector<std::string> words = {program.name, "[OPTION]..."};
  for (const OptionInfo* option : Select(layers, [](const OptionInfo& o) { return !o.positional && o.required; })) {
    words.push_back(Label(*option));
  }
  for (const OptionInfo* option : Positionals(layers)) {
    words.push_back(option->required ? Label(*option) : absl::StrCat("[", Label(*option), "]"));
  }
  return words;
}

std::string UsageLine(const Program& program, const std::vector<LayerInfo>& layers) {
  return absl::StrCat("usage: ", absl::StrJoin(Usage(program, layers), " "));
}

// ---- Parsing.

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

// ---- Help.

// Of UTF-8 text without wide letters.
size_t Columns(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

// Appends words, the first at `column`, and ends the line. Each further line begins with `prefix`.
void AppendWrapped(const std::vector<std::string>& words, size_t column, absl::string_view prefix, std::string& out) {
  bool first = true;
  for (const std::string& word : words) {
    if (!first && column + 1 + Columns(word) > kWidth) {
      absl::StrAppend(&out, "\n", prefix);
      column = Columns(prefix);
      first = true;
    }
    absl::StrAppend(&out, first ? "" : " ", word);
    column += Columns(word) + (first ? 0 : 1);
    first = false;
  }
  out += '\n';
}

std::vector<std::string> Words(absl::string_view text) { return absl::StrSplit(text, ' ', absl::SkipEmpty()); }

std::string Spaces(size_t count) { return std::string(count, ' '); }

// Of an option: "(1 byte to 1 GiB, default 64 KiB)", or nothing.
std::string Limits(const OptionInfo& option) {
  std::vector<std::string> limits;
  if (!option.positional && option.required) limits.push_back("required");
  if (auto* const* field = std::get_if<uint64_t*>(&option.value)) {
    const std::string min = Format(option.unit, option.min);
    const std::string max = Format(option.unit, option.max);
    if (option.min > 0 && option.max < UINT64_MAX) {
      limits.push_back(absl::StrCat(min, " to ", max));
    } else if (option.min > 0) {
      limits.push_back(absl::StrCat("at least ", min));
    } else if (option.max < UINT64_MAX) {
      limits.push_back(absl::StrCat("at most ", max));
    }
    // A default of no bytes means "not given", as the help of such an option says.
    if (!option.required && (**field != 0 || option.unit != Unit::kBytes)) {
      limits.push_back(absl::StrCat("default ", Format(option.unit, **field)));
    }
  }
  if (auto* const* field = std::get_if<std::string*>(&option.value)) {
    if (!option.required && !(*field)->empty()) limits.push_back(absl::StrCat("default ", **field));
  }
  return limits.empty() ? "" : absl::StrCat(" (", absl::StrJoin(limits, ", "), ")");
}

// One option of the help: its label and what is said about it.
struct Row {
  std::string label;
  std::string text;
};

Row RowOf(const OptionInfo& option) { return {Label(option), option.help + Limits(option)}; }

struct Section {
  std::string title;
  std::vector<Row> rows;
};

void AppendSection(const Section& section, size_t label_width, std::string& out) {
  if (section.rows.empty()) return;
  absl::StrAppend(&out, "\n", section.title, ":\n");
  const std::string indent = Spaces(2 + label_width + 2);
  for (const Row& row : section.rows) {
    absl::StrAppend(&out, "  ", row.label);
    const size_t width = Columns(row.label);
    absl::StrAppend(&out, width <= label_width ? Spaces(label_width + 2 - width) : absl::StrCat("\n", indent));
    AppendWrapped(Words(row.text), indent.size(), indent, out);
  }
}

void AppendText(absl::string_view title, absl::string_view text, std::string& out) {
  if (text.empty()) return;
  absl::StrAppend(&out, "\n", title, ":\n");
  for (absl::string_view line : absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
    absl::StrAppend(&out, line.empty() ? "" : "  ", line, "\n");
  }
}

// The layer's name, and which it is if there are several: "cache", "cache-2".
std::string Title(const std::vector<LayerInfo>& layers, size_t index) {
  const size_t before = std::count_if(layers.begin(), layers.begin() + index, [&](const LayerInfo& layer) {
    return InStack(layer) && layer.name == layers[index].name;
  });
  return before == 0 ? layers[index].name : absl::StrCat(layers[index].name, "-", before + 1);
}

std::vector<Section> Sections(const std::vector<LayerInfo>& layers) {
  std::vector<Section> sections = {{.title = "Arguments", .rows = {}}};
  for (const OptionInfo* option : Positionals(layers)) sections[0].rows.push_back(RowOf(*option));
  for (bool in_stack : {true, false}) {
    for (size_t index = 0; index < layers.size(); ++index) {
      if (InStack(layers[index]) != in_stack) continue;
      const std::string name = in_stack ? Title(layers, index) : layers[index].name;
      Section section = {.title = absl::StrCat("Options of ", name), .rows = {}};
      for (const OptionInfo& option : layers[index].options) {
        if (!option.positional && option.refused.empty()) section.rows.push_back(RowOf(option));
      }
      sections.push_back(std::move(section));
    }
  }
  if (std::all_of(layers.begin(), layers.end(), InStack)) sections.push_back({.title = "Options", .rows = {}});
  sections.back().rows.push_back({"-h, --help", "says this and ends"});
  return sections;
}

// The stack's lines, each behind `indent` spaces.
std::string Draw(const std::vector<LayerInfo>& layers, size_t indent) {
  std::vector<size_t> stack;  // indices of the layers to draw
  for (size_t index = 0; index < layers.size(); ++index) {
    if (InStack(layers[index])) stack.push_back(index);
  }
  // Is there a further branch at `depth`, beside the one that leads to the layer at `at`?
  const auto more = [&](size_t at, int depth) {
    const auto next =
        std::find_if(stack.begin() + at + 1, stack.end(), [&](size_t index) { return layers[index].depth <= depth; });
    return next != stack.end() && layers[*next].depth == depth;
  };
  size_t width = 0;
  for (size_t index : stack) width = std::max(width, 3 * layers[index].depth + Columns(Title(layers, index)));
  std::string out;
  for (size_t at = 0; at < stack.size(); ++at) {
    const LayerInfo& layer = layers[stack[at]];
    std::string line = Spaces(indent);
    std::string continued = Spaces(indent);
    for (int depth = 1; depth <= layer.depth; ++depth) {
      const char* passing = more(at, depth) ? "│  " : "   ";
      const char* ending = more(at, depth) ? "├─ " : "└─ ";
      line += depth < layer.depth ? passing : ending;
      continued += passing;
    }
    const bool has_below = at + 1 < stack.size() && layers[stack[at + 1]].depth > layer.depth;
    continued += has_below ? "│" : " ";
    line += Title(layers, stack[at]);
    const size_t column = indent + width + 2;
    line += Spaces(column - Columns(line));
    continued += Spaces(column - Columns(continued));
    out += line;
    AppendWrapped(Words(layer.summary), column, continued, out);
  }
  return out;
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

std::string Help(const Program& program, std::vector<LayerInfo> layers) {
  MakeNamesDistinct(layers);
  std::string out = "Usage: ";
  AppendWrapped(Usage(program, layers), Columns(out), Spaces(Columns(out)), out);
  out += '\n';
  AppendWrapped(Words(program.summary), 0, "", out);
  if (std::any_of(layers.begin(), layers.end(), InStack)) out += "\nThe stack, outermost first:\n" + Draw(layers, 2);
  AppendText("Verbs, instead of serving", program.verbs, out);
  const std::vector<Section> sections = Sections(layers);
  size_t label_width = 0;
  for (const Section& section : sections) {
    for (const Row& row : section.rows) {
      const size_t width = Columns(row.label);
      if (width <= kMaxLabel) label_width = std::max(label_width, width);
    }
  }
  for (const Section& section : sections) AppendSection(section, label_width, out);
  const bool sizes = !Select(layers, [](const OptionInfo& o) { return IsNumber(o) && o.unit == Unit::kBytes; }).empty();
  if (sizes) out += "\nA size is in bytes, or a number with K, M, G, T, P or E: powers of 1024.\n";
  AppendText("Examples", program.examples, out);
  AppendText("Exit codes", program.exit_codes, out);
  return out;
}

std::string DrawStack(const std::vector<LayerInfo>& layers) { return Draw(layers, 0); }

}  // namespace buse
