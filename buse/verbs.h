// SPDX-License-Identifier: Apache-2.0
//
// What the program of a stack does besides serving, where its layers have media of their own (buse/medium.h):
//
//   safedisk format disk.img     makes the media; what they hold is destroyed, with --force only if they hold something
//   safedisk check disk.img      reads everything and lists what is damaged
//   safedisk describe disk.img   says what lies on a medium
//   raid status /run/raid.json   says how a set of legs is, where a layer keeps a status (layers/maintain.h)
//
// A verb is the first argument. Results go to standard output, progress and errors to standard error.

#ifndef BUSE_VERBS_H_
#define BUSE_VERBS_H_

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "buse/device.h"
#include "buse/disk.h"
#include "buse/medium.h"
#include "buse/options.h"
#include "buse/serve.h"
#include "buse/size.h"
#include "layers/superblock.h"

namespace buse {

// How far something is: on a terminal one line that is drawn again and again, else a line for every tenth. Nothing in the first
// second, so that what is quickly done is quiet. Not thread-safe.
class ProgressLine {
 public:
  using Clock = std::function<std::chrono::steady_clock::time_point()>;

  explicit ProgressLine(std::FILE* out);
  ProgressLine(std::FILE* out, bool terminal, Clock clock);
  ~ProgressLine() { Clear(); }

  // Begins anew: "WHAT: 30 % of 10 GiB".
  void Begin(std::string what);
  void Update(uint64_t done, uint64_t total);
  // Makes room for a line of something else.
  void Clear();

 private:
  std::FILE* const out_;
  const bool terminal_;
  const Clock clock_;
  std::string what_;
  std::chrono::steady_clock::time_point began_;
  std::chrono::steady_clock::time_point drawn_;
  bool shown_ = false;
  uint64_t tenths_ = 0;
};

// What a check found, as lines on standard output; ranges that touch and have one reason are one.
class CheckFindings {
 public:
  explicit CheckFindings(ProgressLine& progress) : progress_(progress) {}

  void BeginLayer(absl::string_view name, uint64_t size);
  void Damaged(Range range, absl::string_view why);
  void Flawed(absl::string_view what);
  // Prints what is still held. Returns a sentence that sums up.
  std::string End();
  bool sound() const { return ranges_ == 0 && flaws_ == 0; }

 private:
  void PrintHeld();

  ProgressLine& progress_;
  std::map<std::string, int> layers_;  // how many there have been of each name
  std::string layer_;
  uint64_t checked_ = 0;
  uint64_t ranges_ = 0;
  uint64_t bytes_ = 0;
  uint64_t flaws_ = 0;
  Range held_ = {};
  std::string why_;
};

namespace verbs_internal {

template <class D>
    struct KeepsStatus : std::bool_constant < requires {
  D::kKeepsStatus;
} > {};

}  // namespace verbs_internal

enum class Verb { kNone, kFormat, kCheck, kDescribe, kStatus };

// Whether a layer of the stack keeps a status in a file.
template <Device Stack>
inline constexpr bool kKeepsStatus = medium_internal::AnyLayer<verbs_internal::KeepsStatus, Stack>();

// The verb of the program that a command line begins with.
Verb VerbOf(const Program& program, int argc, const char* const* argv);

// What --help says of the verbs.
std::string VerbsHelp(const Program& program);

// Has each option that shapes a medium refused, except by the verb that makes it.
void LeaveShapingToFormat(const std::string& program, std::vector<LayerInfo>& layers);

// Whether a verb stands where it is none: a file of its name would be created.
absl::Status CheckNoVerbMisplaced(const Program& program, const std::vector<LayerInfo>& layers);

// How a sentence about a bad target ends.
absl::Status WithVerbs(const Program& program, absl::Status status);

// "describe", for any medium: the whole program of //tools:describe too. Returns the exit code.
int RunDescribe(const std::string& program, int argc, const char* const* argv);

// "status": shows what a server keeps in its status file, once or, with --watch, until it is interrupted. Returns the exit code.
int RunStatus(const Program& program, int argc, const char* const* argv);

// The names of a stack's files, for sentences about it; "the medium" if it has none.
std::string FilesOf(const std::vector<LayerInfo>& layers);

struct FormatOptions {
  bool force = false;

  static constexpr Description<FormatOptions, 1> Describe() {
    return {
        "format",
        "makes the media",
        Family::kLeaf,  // of no stack, so of no family
        {{{.field = &FormatOptions::force, .name = "force", .help = "format even what holds something, which is destroyed"}}}};
  }
};

// `verb` as a program of its own, in the words of the stack's.
Program ProgramOfVerb(const Program& program, Verb verb);

// What a medium that is not empty says to a format.
absl::Status MayFormatOver(const std::string& file, const absl::StatusOr<std::string>& contents, bool force);

namespace verbs_internal {

template <Device Stack>
int Format(const Program& program, typename Stack::Config& config, const FormatOptions& options) {
  const auto may_format = [&]<class Branch>(Branch*, const typename Branch::Config& branch, typename Branch::State& state) {
    typename Branch::Config described = branch;
    const std::string file = FilesOf(DescribeStack<Branch>(described));
    if (!buse::Writable<Branch>(state)) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": is read-only, so it cannot be formatted"));
    }
    return MayFormatOver(file, Contents<Branch>(state), options.force);
  };
  absl::Status status = AskBeforeFormat<Stack>(config, may_format);
  if (status.ok()) {
    ProgressLine progress(stderr);
    progress.Begin(absl::StrCat(program.name, ": formatting"));
    status = FormatStack<Stack>(config, [&](uint64_t done, uint64_t total) { progress.Update(done, total); });
  }
  if (!status.ok()) return ExitWith(program.name, OpeningFailed(status));
  // Whether it can be used is better known now than later.
  const absl::StatusOr<Disk<Stack>> disk = Disk<Stack>::Open(config);
  if (!disk.ok()) return ExitWith(program.name, OpeningFailed(disk.status()));
  std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  std::printf("%s: formatted: a disk of %s\n", FilesOf(layers).c_str(), FormatSizeRoughly(disk->size()).c_str());
  return kExitOk;
}

template <Device Stack>
int Check(const Program& program, typename Stack::Config& config) {
  absl::StatusOr<Disk<Stack>> disk = Disk<Stack>::Open(config);
  if (!disk.ok()) return ExitWith(program.name, OpeningFailed(disk.status()));
  ProgressLine progress(stderr);
  CheckFindings findings(progress);
  const CheckReport report = {.damaged = [&](Range range, absl::string_view why) { findings.Damaged(range, why); },
                              .flawed = [&](absl::string_view what) { findings.Flawed(what); },
                              .progress = [&](uint64_t done, uint64_t total) { progress.Update(done, total); }};
  const auto begins = [&](absl::string_view name, uint64_t size) {
    findings.BeginLayer(name, size);
    progress.Begin(absl::StrCat(program.name, ": checking ", name));
  };
  const absl::Status status = CheckStack<Stack>(disk->state(), begins, report);
  const std::string sum = findings.End();
  if (!status.ok()) return ExitWith(program.name, absl::InternalError(absl::StrCat("not all was checked: ", status.message())));
  std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  std::printf("%s: %s\n", FilesOf(layers).c_str(), sum.c_str());
  return findings.sound() ? kExitOk : kExitDamaged;
}

}  // namespace verbs_internal

// Does what the verb says. Returns the exit code.
template <Device Stack>
int RunVerb(Verb verb, const Program& stack_program, int argc, const char* const* argv) {
  const Program program = ProgramOfVerb(stack_program, verb);
  if (verb == Verb::kDescribe) return RunDescribe(program.name, argc - 1, argv + 1);
  if (verb == Verb::kStatus) return RunStatus(stack_program, argc - 1, argv + 1);
  typename Stack::Config config{};
  FormatOptions options;
  std::vector<LayerInfo> layers = DescribeStack<Stack>(config);
  if (verb == Verb::kFormat) {
    layers.push_back(DescribeOptions(FormatOptions::Describe(), options));
  } else {
    LeaveShapingToFormat(stack_program.name, layers);
  }
  const absl::StatusOr<ParseResult> parsed = ParseCommandLine(argc - 1, argv + 1, program, layers);
  if (!parsed.ok()) return ExitWith(stack_program.name, parsed.status());
  if (*parsed == ParseResult::kHelp) return kExitOk;
  KeepStill<Stack>(config);
  return verb == Verb::kFormat ? verbs_internal::Format<Stack>(stack_program, config, options)
                               : verbs_internal::Check<Stack>(stack_program, config);
}

}  // namespace buse

#endif  // BUSE_VERBS_H_
