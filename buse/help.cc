// SPDX-License-Identifier: Apache-2.0
//
// What --help prints of a stack: its picture, and its options by layer.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "buse/option_words.h"
#include "buse/options.h"

namespace buse {
namespace {

using namespace options_internal;

constexpr size_t kMaxLabel = 26;  // a longer label of the help stands on a line of its own

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
    return InStack(layer) && layer.name == layers[index].name && layer.of == layers[index].of;
  });
  return before == 0 ? layers[index].name : absl::StrCat(layers[index].name, "-", before + 1);
}

std::vector<Section> Sections(const std::vector<LayerInfo>& layers) {
  std::vector<Section> sections = {{.title = "Arguments", .rows = {}}};
  for (const OptionInfo* option : Positionals(layers)) sections[0].rows.push_back(RowOf(*option));
  for (bool in_stack : {true, false}) {
    for (size_t index = 0; index < layers.size(); ++index) {
      if (InStack(layers[index]) != in_stack) continue;
      const std::string& of = layers[index].of;
      const std::string name = absl::StrCat(of, of.empty() ? "" : ": ", in_stack ? Title(layers, index) : layers[index].name);
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

std::string Help(const Program& program, std::vector<LayerInfo> layers) {
  MakeNamesDistinct(layers);
  std::string out = "Usage: ";
  AppendWrapped(Usage(program, layers), Columns(out), Spaces(Columns(out)), out);
  out += '\n';
  AppendWrapped(Words(program.summary), 0, "", out);
  if (std::any_of(layers.begin(), layers.end(), InStack)) {
    const bool several = std::any_of(layers.begin(), layers.end(), [](const LayerInfo& layer) { return !layer.of.empty(); });
    out += several ? "\nThe exports, and below each its stack:\n" : "\nThe stack, outermost first:\n";
    out += Draw(layers, 2);
  }
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
