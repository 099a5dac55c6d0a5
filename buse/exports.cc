// SPDX-License-Identifier: Apache-2.0

#include "buse/exports.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "buse/target.h"

namespace buse {
namespace {

absl::StatusOr<size_t> PlaceOf(absl::string_view option, absl::string_view name, std::span<const absl::string_view> names) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return i;
  }
  return absl::InvalidArgumentError(absl::StrCat(option, ": \"", absl::Utf8SafeCEscape(name),
                                                 "\" is no export of this program: give one of ", absl::StrJoin(names, ", ")));
}

}  // namespace

absl::StatusOr<std::optional<size_t>> OnlyRequested(int argc, const char* const* argv,
                                                    std::span<const absl::string_view> names) {
  for (int i = 1; i < argc && absl::string_view(argv[i]) != "--"; ++i) {
    absl::string_view argument = argv[i];
    const bool apart = argument == "--only" && i + 1 < argc;
    if (!apart && !absl::ConsumePrefix(&argument, "--only=")) continue;
    const absl::StatusOr<size_t> place = PlaceOf("--only", apart ? argv[i + 1] : argument, names);
    if (!place.ok()) return place.status();
    return *place;
  }
  return std::nullopt;
}

absl::StatusOr<size_t> ExportOfVerb(int argc, const char* const* argv, std::span<const absl::string_view> names) {
  if (argc < 3) {
    return absl::InvalidArgumentError(
        absl::StrCat(argv[1], ": whose medium? Give the name of an export behind it: ", absl::StrJoin(names, ", ")));
  }
  return PlaceOf(argv[1], argv[2], names);
}

void AppendExport(absl::string_view name, bool is_default, std::vector<LayerInfo> stack, std::vector<LayerInfo>& layers) {
  LayerInfo head;
  head.name = std::string(name);
  head.summary = is_default ? "an export, and the one for a client that names none" : "an export";
  head.family = Family::kObserver;
  head.depth = 0;
  head.of = head.name;
  layers.push_back(head);
  for (LayerInfo& layer : stack) {
    ++layer.depth;
    layer.of = head.name;
    for (OptionInfo& option : layer.options) option.name = absl::StrCat(name, "-", option.name);
    layers.push_back(std::move(layer));
  }
}

Program ProgramOfExports(const char* argv0, const std::vector<LayerInfo>& layers, std::span<const absl::string_view> names) {
  Program program = ProgramOf(argv0, layers);
  const std::string all = program.name + program.arguments;
  program.summary = "Serves block devices to NBD clients, or one of them to the kernel.";
  program.examples =
      absl::StrCat(all, "\n", all, " 'nbd+unix:///?socket=/tmp/disks.sock'\n", all, " nbd://localhost\n", program.name,
                   " --only ", names.back(), " --help\n", program.name, " --disconnect /dev/nbd0\n");
  return program;
}

absl::Status CheckTargetOfExports(const ServeOptions& options, std::span<const absl::string_view> names) {
  const std::string all = absl::StrJoin(names, ", ");
  if (options.resume || options.replace) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", options.resume ? "resume" : "replace",
                     ": is about a kernel device, which shows one export: choose it with --only NAME, one of ", all));
  }
  if (options.target.empty()) return absl::OkStatus();
  const absl::StatusOr<Target> target = ParseTarget(options.target);
  if (!target.ok()) return target.status();
  if (target->kind == Target::Kind::kKernelDevice) {
    return absl::InvalidArgumentError(
        absl::StrCat("target: ", options.target, " shows one export: choose it with --only NAME, one of ", all));
  }
  if (!target->export_name.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("target: ", options.target, " has a name, \"",
                                                   absl::Utf8SafeCEscape(target->export_name),
                                                   "\", but the exports have their own, ", all, ": leave it out"));
  }
  return CheckTarget(options);
}

}  // namespace buse
