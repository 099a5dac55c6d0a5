// SPDX-License-Identifier: Apache-2.0
//
// Exports: several devices, each a stack of its own type, that one program serves by name.
//
//   using Boot = buse::Named<"boot", buse::ReadOnly<buse::FileBacked>>;
//   using Data = buse::Named<"data", buse::Cache<buse::FileBacked>>;
//   int main(int argc, char** argv) { return buse::Server<buse::Exports<Boot, Data>>::Main(argc, argv); }
//
// The first is the default export, which a client gets that names none. On the command line the options of each begin with its
// name: --data-size is the size of the cache. With --only NAME the program is that of one export, and a kernel device can show it.
// The verbs of stacks with media take the name too: PROGRAM format data disk.img.

#ifndef BUSE_EXPORTS_H_
#define BUSE_EXPORTS_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "buse/description.h"
#include "buse/device.h"
#include "buse/disk.h"
#include "buse/medium.h"
#include "buse/options.h"
#include "buse/serve.h"
#include "buse/served_export.h"
#include "buse/server.h"
#include "buse/signals.h"
#include "buse/verbs.h"
#include "layers/log.h"

namespace buse {

// A text in a type.
template <size_t kSize>
struct FixedText {
  char text[kSize];

  consteval FixedText(const char (&from)[kSize]) { std::copy_n(from, kSize, text); }  // implicit, for Named<"boot", …>
  constexpr absl::string_view view() const { return {text, kSize - 1}; }
};

namespace exports_internal {

consteval bool IsName(absl::string_view name) {
  if (name.empty() || name.size() > 64 || name.front() == '-' || name.back() == '-') return false;
  for (char c : name) {
    if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '-') return false;
  }
  return true;
}

template <size_t kCount>
consteval bool Differ(const std::array<absl::string_view, kCount>& names) {
  for (size_t i = 0; i < kCount; ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (names[i] == names[j]) return false;
    }
  }
  return true;
}

}  // namespace exports_internal

template <FixedText kText, class D>
struct Named {
  static constexpr absl::string_view kName = kText.view();
  static_assert(exports_internal::IsName(kName),
                "buse: the name of an export begins its options: lower-case letters, digits and dashes between them, up to 64");
  static_assert(Device<D>);
  using Stack = D;
};

template <class... N>
struct Exports {};

// Which export the command line is about.
struct ExportsOptions {
  std::string only;

  static constexpr Description<ExportsOptions, 1> Describe() {
    return {
        "exports",
        "serves several devices by name",
        Family::kLeaf,  // of no stack, so of no family
        {{{.field = &ExportsOptions::only,
           .name = "only",
           .help = "serve the export of this name alone; what the others need is then not to be given. A kernel device shows "
                   "one export, so it needs this"}}}};
  }
};

// The place of the export that --only names among `names`; nothing without it. kInvalidArgument: there is none of that name.
absl::StatusOr<std::optional<size_t>> OnlyRequested(int argc, const char* const* argv,
                                                    std::span<const absl::string_view> names);

// The same for what follows a verb, which one export has to.
absl::StatusOr<size_t> ExportOfVerb(int argc, const char* const* argv, std::span<const absl::string_view> names);

// Turns the layers of a stack into those of an export: under a line with its name, options and all.
void AppendExport(absl::string_view name, bool is_default, std::vector<LayerInfo> stack, std::vector<LayerInfo>& layers);

// ProgramOf, for several exports.
Program ProgramOfExports(const char* argv0, const std::vector<LayerInfo>& layers, std::span<const absl::string_view> names);

// CheckTarget, for several exports that are to be served together.
absl::Status CheckTargetOfExports(const ServeOptions& options, std::span<const absl::string_view> names);

template <class... N>
class Server<Exports<N...>> {
  static_assert(sizeof...(N) > 0, "buse: Exports needs at least one Named<\"name\", Stack>");
  static_assert(exports_internal::Differ<sizeof...(N)>({N::kName...}), "buse: two exports have the same name");

 public:
  // The `main` of a program that serves these exports. Returns the exit code (buse/serve.h).
  static int Main(int argc, char** argv) {
    const ServingProcess process;
    EnterCallersFolder();
    return Run(argc, argv, std::index_sequence_for<N...>());
  }

 private:
  static constexpr std::array<absl::string_view, sizeof...(N)> kNames = {N::kName...};
  static constexpr bool kAnyFormats = (kFormats<typename N::Stack> || ...);

  using Configs = std::tuple<typename N::Stack::Config...>;
  template <size_t kIndex>
  using StackOf = typename std::tuple_element_t<kIndex, std::tuple<N...>>::Stack;

  template <size_t... kIndex>
  static int Run(int argc, char** argv, std::index_sequence<kIndex...> all) {
    Configs configs;
    ServeOptions options;
    ExportsOptions which;
    const absl::StatusOr<std::optional<size_t>> only = OnlyRequested(argc, argv, kNames);
    std::vector<LayerInfo> layers;
    const auto append = [&](auto index) {
      if (!only.ok() || only->value_or(index()) != index()) return;
      std::vector<LayerInfo> stack = DescribeStack<StackOf<index()>>(std::get<index()>(configs));
      if constexpr (kFormats<StackOf<index()>>) LeaveShapingToFormat(ProgramOf(argv[0], {}).name, stack);
      AppendExport(kNames[index()], index() == 0, std::move(stack), layers);
    };
    (append(std::integral_constant<size_t, kIndex>()), ...);
    layers.push_back(DescribeOptions(ExportsOptions::Describe(), which));
    layers.push_back(DescribeOptions(ServeOptions::Describe(), options));
    Program program = ProgramOfExports(argv[0], layers, kNames);
    if (!only.ok()) return ExitWith(program.name, only.status());
    program.keeps_status = (kKeepsStatus<StackOf<kIndex>> || ...);
    if constexpr (kAnyFormats) {
      if (const Verb verb = VerbOf(program, argc, argv); verb != Verb::kNone)
        return RunVerbOfOne(verb, program, argc, argv, all);
      Program of_verbs = program;
      of_verbs.arguments = " NAME disk.img";
      program.verbs = VerbsHelp(of_verbs);
    }
    if (const absl::optional<int> done = RunWithoutStack(program.name, argc, argv)) return *done;
    const absl::StatusOr<ParseResult> parsed = ParseCommandLine(argc, argv, program, layers);
    if (!parsed.ok()) return ExitWith(program.name, parsed.status());
    if (*parsed == ParseResult::kHelp) return kExitOk;
    if (!(Exported<typename N::Stack>::kDefers || ...)) options.workers = 0;
    absl::Status target = only->has_value() ? CheckTarget(options) : CheckTargetOfExports(options, kNames);
    if (!target.ok()) return ExitWith(program.name, target);
    if (options.backend.empty()) options.backend = BackendOf(layers);
    absl::Status status;
    if (!only->has_value()) {
      status = options.verbose ? ServeAll<true>(program.name, configs, options, all)
                               : ServeAll<false>(program.name, configs, options, all);
    } else {
      const auto serve = [&](auto index) {
        status = OpenAndServeOrLog<StackOf<index()>>(program.name, std::get<index()>(configs), options,
                                                     std::string(kNames[index()]));
      };
      (void)((kIndex == **only && (serve(std::integral_constant<size_t, kIndex>()), true)) || ...);
    }
    return ExitWith(program.name, status);
  }

  // All at once, each with its own flags, sizes and request loop. Logging is a layer here too.
  template <bool kLogged, size_t... kIndex>
  static absl::Status ServeAll(const std::string& program, Configs& configs, const ServeOptions& options,
                               std::index_sequence<kIndex...>) {
    if (!(CanResize<StackOf<kIndex>> || ...) && options.resize_limit != 0) return CannotResize();
    if (!(CanBacking<MaybeLog<kLogged, StackOf<kIndex>>> || ...) && options.mmap) return CannotMap();
    std::tuple<std::optional<Disk<MaybeLog<kLogged, StackOf<kIndex>>>>...> disks;
    absl::Status status;
    const auto open = [&](auto index) {
      using Stack = MaybeLog<kLogged, StackOf<index()>>;
      absl::StatusOr<Disk<Stack>> disk =
          Disk<Stack>::Open(MaybeLogConfig<kLogged, StackOf<index()>>(std::get<index()>(configs)));
      if (!disk.ok()) {
        const absl::Status failed = OpeningFailed(disk.status());
        status = absl::Status(failed.code(), absl::StrCat(kNames[index()], ": ", failed.message()));
        return false;
      }
      std::get<index()>(disks).emplace(*std::move(disk));
      return true;
    };
    if (!(open(std::integral_constant<size_t, kIndex>()) && ...)) return status;
    LimitedLog log(program);
    // In place: they hold locks.
    std::tuple<std::optional<StackExport<MaybeLog<kLogged, StackOf<kIndex>>>>...> exports;
    (std::get<kIndex>(exports).emplace(program, std::string(kNames[kIndex]), *std::get<kIndex>(disks), options, Narrowing(),
                                       log),
     ...);
    ServedExport* const served[] = {&*std::get<kIndex>(exports)...};
    return ServeExports(program, served, options, log);
  }

  template <size_t... kIndex>
  static int RunVerbOfOne(Verb verb, const Program& program, int argc, const char* const* argv,
                          std::index_sequence<kIndex...>) {
    if (verb == Verb::kDescribe) return RunDescribe(program.name + " describe", argc - 1, argv + 1);
    if (verb == Verb::kStatus) return RunStatus(program, argc - 1, argv + 1);
    const absl::StatusOr<size_t> which = ExportOfVerb(argc, argv, kNames);
    if (!which.ok()) return ExitWith(program.name, which.status());
    Program of_one = program;
    of_one.of = std::string(kNames[*which]);
    of_one.arguments = " disk.img";
    int code = kExitUsage;
    const auto run = [&](auto index) {
      if constexpr (kFormats<StackOf<index()>>) {
        code = RunVerb<StackOf<index()>>(verb, of_one, argc - 1, argv + 1);
      } else {
        code = ExitWith(program.name, absl::InvalidArgumentError(absl::StrCat(argv[1], ": the export ", of_one.of,
                                                                              " has no layer with a format of its own")));
      }
    };
    (void)((kIndex == *which && (run(std::integral_constant<size_t, kIndex>()), true)) || ...);
    return code;
  }
};

}  // namespace buse

#endif  // BUSE_EXPORTS_H_
