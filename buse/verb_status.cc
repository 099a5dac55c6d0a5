// SPDX-License-Identifier: Apache-2.0
//
// The verb "status": reads the file again and again, and draws what it says.

#include <errno.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "buse/options.h"
#include "buse/signals.h"
#include "buse/status.h"
#include "buse/verbs.h"
#include "layers/maintenance_report.h"
#include "layers/maintenance_status.h"

namespace buse {
namespace {

constexpr int kRedrawMs = 1000;

struct StatusOptions {
  std::string file;
  bool watch = false;
  bool json = false;

  static constexpr Description<StatusOptions, 3> Describe() {
    return {
        "status",
        "says how the legs are",
        Family::kLeaf,  // of no stack, so of no family
        {{{.field = &StatusOptions::file,
           .name = "file",
           .help = "what the server was given as --status",
           .positional = true,
           .required = true},
          {.field = &StatusOptions::watch,
           .name = "watch",
           .help = "go on until interrupted: on a terminal draw it anew every second, else print a line where it changes"},
          {.field = &StatusOptions::json,
           .name = "json",
           .help = "print it as JSON, with \"health\" and \"advice\" added; with --watch an object on a line every second"}}}};
  }
};

absl::StatusOr<MaintenanceStatus> ReadStatus(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    if (errno == ENOENT) {
      return absl::NotFoundError(
          absl::StrCat(path, ": there is no such file: a server that is started with --status makes one"));
    }
    return StatusFromErrno(errno, absl::StrCat(path, ": cannot read the status"));
  }
  std::ostringstream text;
  text << file.rdbuf();
  absl::StatusOr<MaintenanceStatus> status = ParseMaintenanceStatus(text.str());
  if (!status.ok()) return absl::InternalError(absl::StrCat(path, ": ", status.status().message()));
  return status;
}

int ExitCodeOf(Health health) {
  switch (health) {
    case Health::kHealthy:
      return kExitOk;
    case Health::kDegraded:
      return kExitDegraded;
    case Health::kInDanger:
      return kExitInDanger;
    case Health::kUnknown:
      return kExitFailure;
  }
  return kExitFailure;
}

// Prints the status each time, as the options and the terminal want it.
class StatusScreen {
 public:
  StatusScreen(std::string program, const StatusOptions& options)
      : program_(std::move(program)),
        options_(options),
        terminal_(isatty(STDOUT_FILENO) == 1),
        color_(terminal_ && std::getenv("NO_COLOR") == nullptr) {}

  // False: nobody reads it any more.
  bool Show(const MaintenanceStatus& status) {
    const auto now = static_cast<uint64_t>(time(nullptr));
    if (options_.json) {
      Print(ToJson(status, NameOf(HealthOf(status, now)), AdviceOn(status, now, program_), options_.watch) + "\n");
    } else if (!options_.watch) {
      Print(Report(status, now, program_, color_));
    } else if (terminal_) {
      Draw(Report(status, now, program_, color_));
    } else {
      PrintIfNew(ReportLine(status, now));
    }
    return std::fflush(stdout) == 0;
  }

  // The same of an error, which may go away.
  bool Show(const absl::Status& error) {
    const std::string line = absl::StrCat("unknown: ", error.message());
    if (options_.json) {
      std::fprintf(stderr, "%s\n", line.c_str());
    } else if (terminal_) {
      Draw(line + "\n");
    } else {
      PrintIfNew(line);
    }
    return std::fflush(stdout) == 0;
  }

 private:
  static void Print(const std::string& text) { std::fputs(text.c_str(), stdout); }

  // From the upper left corner, over what is there.
  static void Draw(const std::string& text) {
    Print(absl::StrCat("\x1b[H", absl::StrReplaceAll(text, {{"\n", "\x1b[K\n"}}), "\x1b[J"));
  }

  void PrintIfNew(const std::string& line) {
    if (line != last_) Print(line + "\n");
    last_ = line;
  }

  const std::string program_;
  const StatusOptions& options_;
  const bool terminal_;
  const bool color_;
  std::string last_;
};

}  // namespace

int RunStatus(const Program& stack_program, int argc, const char* const* argv) {
  Program program = ProgramOfVerb(stack_program, Verb::kStatus);
  program.examples += absl::StrCat(program.name, " status.json --watch\n");
  program.exit_codes =
      "0  healthy: all legs are in sync\n"
      "1  unknown: the server ended, was killed or hangs, or the file cannot be read\n"
      "2  wrong usage\n"
      "3  no such file\n"
      "6  degraded: some leg is not in sync, and one more may fail\n"
      "7  in danger: with one more leg data is lost, or some is already\n"
      "With --watch: 0, when it is interrupted.\n";
  StatusOptions options;
  std::vector<LayerInfo> layers = {DescribeOptions(StatusOptions::Describe(), options)};
  const absl::StatusOr<ParseResult> parsed = ParseCommandLine(argc, argv, program, layers);
  if (!parsed.ok()) return ExitWith(program.name, parsed.status());
  if (*parsed == ParseResult::kHelp) return kExitOk;
  StatusScreen screen(stack_program.name, options);
  if (!options.watch) {
    const absl::StatusOr<MaintenanceStatus> status = ReadStatus(options.file);
    if (!status.ok()) return ExitWith(program.name, status.status());
    screen.Show(*status);
    return ExitCodeOf(HealthOf(*status, static_cast<uint64_t>(time(nullptr))));
  }
  StopSignals signals;
  for (;;) {
    const absl::StatusOr<MaintenanceStatus> status = ReadStatus(options.file);
    if (!(status.ok() ? screen.Show(*status) : screen.Show(status.status()))) return kExitFailure;
    pollfd stop = {signals.fd(), POLLIN, 0};
    if (poll(&stop, 1, kRedrawMs) > 0) return kExitOk;
  }
}

}  // namespace buse
