// SPDX-License-Identifier: Apache-2.0
//
// From the type of a stack to its command line, help and picture. What is said about a layer is what its Describe() says; here
// the types are erased, so that parsing and printing are compiled once.
//
//   typename Stack::Config config;
//   std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
//   layers.push_back(DescribeOptions(Server::Describe(), server_config));
//   absl::StatusOr<ParseResult> result = ParseCommandLine(argc, argv, program, layers);

#ifndef BUSE_OPTIONS_H_
#define BUSE_OPTIONS_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "buse/description.h"
#include "buse/device.h"

namespace buse {

// One option, bound to the field it sets.
struct OptionInfo {
  std::string name;  // see MakeNamesDistinct
  std::string help;
  char letter = 0;  // 0: none
  Unit unit = Unit::kNone;
  bool positional = false;
  bool required = false;
  uint64_t min = 0;  // of a number, inclusive
  uint64_t max = UINT64_MAX;
  bool shapes_medium = false;
  std::string refused;  // not empty: it is not taken here, for this reason; the help leaves it out
  std::variant<bool*, uint64_t*, std::string*> value;  // what it points to before parsing is the default
};

// One layer of a stack, or options that belong to no layer.
struct LayerInfo {
  static constexpr int kNoLayer = -1;

  std::string name;
  std::string summary;
  Family family = Family::kLeaf;
  int depth = kNoLayer;  // 0 is the outermost layer; a layer follows the one it lies below
  std::string of;        // the export whose stack it belongs to, where there are several
  std::vector<OptionInfo> options;
};

// Erases a description. The result points into `config`.
template <class Config, size_t kOptions>
LayerInfo DescribeOptions(const Description<Config, kOptions>& description, Config& config) {
  LayerInfo layer;
  layer.name = description.name;
  layer.summary = description.summary;
  layer.family = description.family;
  for (const Option<Config>& option : description.options) {
    OptionInfo info;
    info.name = option.name;
    info.help = option.help;
    info.letter = option.letter;
    info.unit = option.unit;
    info.positional = option.positional;
    info.required = option.required;
    info.min = option.min;
    info.max = option.max;
    info.shapes_medium = option.shapes_medium;
    std::visit([&](auto field) { info.value = &(config.*field); }, option.field);
    layer.options.push_back(std::move(info));
  }
  return layer;
}

namespace options_internal {

template <class D>
concept CanDescribe = requires {
  D::Describe().options;
};
template <class D>
concept HasBelow = requires {
  typename D::Below;
};
template <class D>
concept ConfiguresBelow = requires(typename D::Config& config) {
  config.below;
};

constexpr bool SameText(const char* a, const char* b) {
  for (; *a != 0 && *a == *b; ++a, ++b) {
  }
  return *a == *b;
}

// Whether a description has a name and a sentence for each of its options, and no name twice.
template <class D>
consteval bool NamesItsOptions() {
  constexpr auto kDescription = D::Describe();
  for (size_t i = 0; i < kDescription.options.size(); ++i) {
    if (kDescription.options[i].name == nullptr || kDescription.options[i].help == nullptr) return false;
    for (size_t j = 0; j < i; ++j) {
      if (SameText(kDescription.options[i].name, kDescription.options[j].name)) return false;
    }
  }
  return true;
}

template <class D>
void AppendLayers(typename D::Config& config, int depth, std::vector<LayerInfo>& layers);

// The one device below.
template <class Below>
struct Branches {
  static void Append(typename Below::Config& config, int depth, std::vector<LayerInfo>& layers) {
    AppendLayers<Below>(config, depth, layers);
  }
};
template <class... Below>
struct Branches<std::tuple<Below...>> {
  static void Append(std::tuple<typename Below::Config...>& configs, int depth, std::vector<LayerInfo>& layers) {
    AppendEach(configs, depth, layers, std::index_sequence_for<Below...>());
  }

 private:
  template <size_t... kBranch>
  static void AppendEach(std::tuple<typename Below::Config...>& configs, int depth, std::vector<LayerInfo>& layers,
                         std::index_sequence<kBranch...>) {
    (AppendLayers<Below>(std::get<kBranch>(configs), depth, layers), ...);
  }
};

template <class D>
void AppendLayers(typename D::Config& config, int depth, std::vector<LayerInfo>& layers) {
  static_assert(
      CanDescribe<D>,
      "buse: this layer lacks Describe: static constexpr buse::Description<Config, N> Describe(), its name, a sentence and "
      "its options, from which the command line is made");
  static_assert(
      HasBelow<D> == ConfiguresBelow<D>,
      "buse: a layer names the device below it, `using Below = B;`, and its Config holds that one's as `below`; here one "
      "of the two is missing");
  if constexpr (CanDescribe<D>) {
    static_assert(NamesItsOptions<D>(),
                  "buse: Describe() of this layer has an option without a name or help (is N of Description<Config, N> their "
                  "number?), or two of one name");
    layers.push_back(DescribeOptions(D::Describe(), config));
    layers.back().depth = depth;
    if constexpr (HasBelow<D>) Branches<typename D::Below>::Append(config.below, depth + 1, layers);
  }
}

}  // namespace options_internal

// The layers of a stack, outermost first. The result points into `config`.
template <Device D>
std::vector<LayerInfo> DescribeStack(typename D::Config& config) {
  std::vector<LayerInfo> layers;
  options_internal::AppendLayers<D>(config, 0, layers);
  return layers;
}

// What is said about a program besides its layers.
struct Program {
  std::string name;
  std::string summary;        // one sentence
  std::string examples;       // lines, printed as they are; may be empty
  std::string exit_codes;     // the same
  std::string verbs;          // the same
  std::string arguments;      // what the layers need, by example: " disk.img"
  std::string of;             // of a verb: the export it concerns, where there are several
  bool keeps_status = false;  // some stack has a layer that does: there is the verb "status"
};

enum class ParseResult {
  kRun,   // all options are set: go on
  kHelp,  // help was printed, which was all that was asked for: exit with 0
};

// Renames the options of layers whose name is taken: the second "size" becomes "size-2", outermost first. Options that belong
// to no layer keep their names, and so does --help; only they have short forms. Parsing and Help do this by themselves; doing
// it again changes nothing.
void MakeNamesDistinct(std::vector<LayerInfo>& layers);

// Sets the fields behind `layers` from the command line. Positionals are those of the layers in their order, then the others;
// where fewer are given than there are, the optional ones go without, last first.
// Errors: kInvalidArgument with one sentence that names the option, the value, the limit and what to do; some fields may then
// be set.
absl::StatusOr<ParseResult> ParseCommandLine(int argc, const char* const* argv, const Program& program,
                                             std::vector<LayerInfo>& layers);

// What --help prints: at most 80 columns, and as defaults what the fields hold now.
std::string Help(const Program& program, std::vector<LayerInfo> layers);

// What the layers are told to use: the texts that they must be given by position, such as files.
std::vector<std::string> MediaOf(const std::vector<LayerInfo>& layers);

// The layers as a tree, outermost first, each with its sentence.
std::string DrawStack(const std::vector<LayerInfo>& layers);

}  // namespace buse

#endif  // BUSE_OPTIONS_H_
