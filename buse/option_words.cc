// SPDX-License-Identifier: Apache-2.0

#include "buse/option_words.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "buse/size.h"

namespace buse::options_internal {

std::string Dashed(absl::string_view name) { return absl::StrCat("--", name); }

std::string Spelled(const OptionInfo& option) { return option.positional ? option.name : Dashed(option.name); }

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

std::vector<const OptionInfo*> Positionals(const std::vector<LayerInfo>& layers) {
  return Select(layers, [](const OptionInfo& option) { return option.positional; });
}

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

}  // namespace buse::options_internal
