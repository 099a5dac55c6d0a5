// SPDX-License-Identifier: Apache-2.0
//
// How options are written, in errors and in the help alike: what parsing (options.cc) and help (help.cc) share.

#ifndef BUSE_OPTION_WORDS_H_
#define BUSE_OPTION_WORDS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "buse/description.h"
#include "buse/options.h"

namespace buse::options_internal {

inline constexpr size_t kWidth = 80;  // columns of the help
inline constexpr absl::string_view kHelpName = "help";

inline bool InStack(const LayerInfo& layer) { return layer.depth != LayerInfo::kNoLayer; }
inline bool IsFlag(const OptionInfo& option) { return std::holds_alternative<bool*>(option.value); }
inline bool IsNumber(const OptionInfo& option) { return std::holds_alternative<uint64_t*>(option.value); }

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

std::vector<const OptionInfo*> Positionals(const std::vector<LayerInfo>& layers);

std::string Dashed(absl::string_view name);

// As errors name it: a positional has no dashes.
std::string Spelled(const OptionInfo& option);

// "--offset SIZE", "-v, --verbose", "TARGET": as the help names it.
std::string Label(const OptionInfo& option);

std::string Format(Unit unit, uint64_t number);

// What follows "Usage: ", as words that are not to be broken.
std::vector<std::string> Usage(const Program& program, const std::vector<LayerInfo>& layers);

}  // namespace buse::options_internal

#endif  // BUSE_OPTION_WORDS_H_
