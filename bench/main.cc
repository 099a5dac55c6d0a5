// SPDX-License-Identifier: Apache-2.0
//
// The benchmark: servers of ours and of others side by side, in turns, from one client.
//
//   bazel run -c opt //bench -- --help

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/child.h"
#include "bench/contestant.h"
#include "bench/in_process.h"
#include "bench/kernel_disk.h"
#include "bench/machine.h"
#include "bench/results.h"
#include "bench/subjects.h"
#include "buse/serve.h"
#include "buse/size.h"

namespace buse::bench {
namespace {

volatile std::sig_atomic_t interrupted = 0;

struct Options {
  std::vector<std::string> rows = {"table"};
  std::vector<std::string> subjects;
  bool list = false;
  bool quick = false;
  int runs = kRunsForRatios;
  double seconds = 1;
  double warmup = 0.2;
  double spin_us = 0;
  std::string size = "256M";
  std::string folder;
  std::string placement = "free";
  std::string json;
};

const std::vector<Group>& Groups() {
  static const auto& groups = *new std::vector<Group>(MakeGroups(InProcessSubjects()));
  return groups;
}

const Group* FindGroup(absl::string_view name) {
  for (const Group& group : Groups()) {
    if (group.name == name) return &group;
  }
  return nullptr;
}

absl::StatusOr<Row> ParseRow(const std::string& name) {
  const size_t slash = name.find('/');
  Row row;
  row.group = FindGroup(slash == std::string::npos ? "memory" : name.substr(0, slash));
  if (row.group == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", name, "\": there is no group \"", name.substr(0, slash), "\"; --list tells them"));
  }
  const std::string task = slash == std::string::npos ? name : name.substr(slash + 1);
  row.name = absl::StrCat(row.group->name, "/", task);
  if (task == "idle") {
    row.task.kind = Task::Kind::kIdle;
  } else if (task == "footprint") {
    row.task.kind = Task::Kind::kFootprint;
  } else {
    absl::StatusOr<Work> work = Work::Parse(task);
    if (!work.ok()) return work.status();
    row.task.work = *work;
  }
  return row;
}

absl::StatusOr<std::vector<Row>> ParseRows(const std::vector<std::string>& names) {
  std::vector<std::string> all;
  for (const std::string& name : names) {
    bool is_set = false;
    for (const RowSet& set : RowSets()) {
      if (set.name != name) continue;
      is_set = true;
      all.insert(all.end(), set.rows.begin(), set.rows.end());
    }
    if (!is_set) all.push_back(name);
  }
  std::vector<Row> rows;
  std::set<std::string> seen;
  for (const std::string& name : all) {
    absl::StatusOr<Row> row = ParseRow(name);
    if (!row.ok()) return row.status();
    if (seen.insert(row->name).second) rows.push_back(*std::move(row));
  }
  return rows;
}

bool Chosen(const Options& options, const Subject& subject) {
  if (options.subjects.empty()) return true;
  for (const std::string& name : options.subjects) {
    if (name == subject.name) return true;
  }
  return false;
}

void PrintList() {
  std::printf("Sets of rows, for --rows:\n");
  for (const RowSet& set : RowSets()) {
    std::printf("  %-8s %s\n", set.name.c_str(), set.what.c_str());
    if (set.rows.size() <= 16) std::printf("           %s\n", absl::StrJoin(set.rows, "\n           ").c_str());
  }
  std::printf("\nGroups and their subjects. A row is GROUP/WORK, GROUP/idle or GROUP/footprint:\n");
  for (const Group& group : Groups()) {
    std::printf("  %-8s %s\n", group.name.c_str(), group.what.c_str());
    for (const Subject& subject : group.subjects) {
      std::printf("    %-20s %-9s %s\n", subject.name.c_str(), KindName(subject.kind), subject.what.c_str());
    }
  }
  std::printf(
      "\nA WORK is BLOCK-PATTERN-dDEPTH[-cCONNECTIONS][-fN]: a block of 512 to 4m bytes; randread, randwrite, randrw, seqread "
      "or\n"
      "seqwrite; requests in flight on each connection; how many connections; a flush after every N writes. Examples:\n"
      "  memory/4k-randread-d32   file/256k-seqwrite-d8-f16   direct/4k-randrw-d16-c4\n");
}

// The folder of this program, where the servers of the benchmark lie too.
std::string OwnFolder() {
  char path[4096];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof(path));
  const std::string self(path, std::max<ssize_t>(0, n));
  return self.substr(0, self.rfind('/'));
}

// Folders of this run, and none of its files in the end.
class Folders {
 public:
  absl::Status Make(const std::string& files, Settings& settings) {
    // A short path, as a socket's may have no more than 107 bytes.
    absl::Status status = Make("/tmp", settings.folder);
    if (status.ok()) status = Make(files, settings.files_folder);
    Make("/dev/shm", settings.tmpfs_folder).IgnoreError();
    return status;
  }
  ~Folders() {
    for (const std::string& folder : made_) rmdir(folder.c_str());
  }

 private:
  absl::Status Make(const std::string& where, std::string& made) {
    std::string path = absl::StrCat(where, "/buse-bench-XXXXXX");
    if (mkdtemp(path.data()) == nullptr) {
      return absl::UnavailableError(absl::StrCat("cannot make a folder in ", where, ": ", std::strerror(errno)));
    }
    made_.push_back(path);
    made = path;
    return absl::OkStatus();
  }

  std::vector<std::string> made_;
};

absl::Status PlaceOnCpus(const std::string& placement, Settings& settings) {
  cpu_set_t all;
  sched_getaffinity(0, sizeof(all), &all);
  settings.server_cpus = settings.client_cpus = all;
  if (placement == "free") return absl::OkStatus();
  const int cpus = CPU_COUNT(&all);
  if (cpus < 2) return absl::InvalidArgumentError("--placement apart needs two CPUs, and there is one");
  CPU_ZERO(&settings.server_cpus);
  CPU_ZERO(&settings.client_cpus);
  int seen = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &all)) CPU_SET(cpu, seen++ < cpus / 2 ? &settings.server_cpus : &settings.client_cpus);
  }
  return absl::OkStatus();
}

std::string VersionOf(const Subject& subject, const Settings& settings) {
  if (subject.version.empty()) return "of this build";
  absl::StatusOr<Child> child = Child::Start(subject.version, settings.server_cpus, settings.folder + "/version");
  if (!child.ok()) return "";
  child->Wait();
  std::ifstream log(settings.folder + "/version");
  std::string line;
  std::getline(log, line);
  unlink((settings.folder + "/version").c_str());
  return line;
}

// Tells how far it is, on standard error: in place on a terminal, else a line now and then.
class Progress {
 public:
  explicit Progress(int total) : total_(total), terminal_(isatty(STDERR_FILENO) != 0), begin_(std::time(nullptr)) {}

  void Next(int run, const std::string& row, const std::string& subject) {
    ++done_;
    const std::time_t now = std::time(nullptr);
    if (!terminal_ && now - told_ < 10) return;
    told_ = now;
    const double left = static_cast<double>(now - begin_) / done_ * (total_ - done_);
    const std::string line = absl::StrFormat("[%d/%d] run %d, %s, %s%s", done_, total_, run + 1, row, subject,
                                             done_ > 5 ? absl::StrFormat(", %.0f s left", left) : "");
    std::fprintf(stderr, terminal_ ? "\r%-100.100s" : "%s\n", line.c_str());
  }

  void Done() {
    if (terminal_) std::fprintf(stderr, "\r%-100s\r", "");
  }

 private:
  const int total_;
  const bool terminal_;
  const std::time_t begin_;
  std::time_t told_ = 0;
  int done_ = 0;
};

// Measures every row of one group once.
class GroupRun {
 public:
  GroupRun(const Group& group, Report& report, int run, Progress& progress)
      : group_(group), report_(report), run_(run), progress_(progress) {}

  void Do(const std::vector<const Subject*>& subjects) {
    for (const Subject* subject : subjects) {
      if (interrupted != 0) return;
      auto contestant = Start(*subject);
      if (contestant.ok()) {
        up_.push_back({subject, *std::move(contestant)});
      } else {
        Miss(*subject, contestant.status());
      }
    }
    for (Row& row : report_.rows) {
      if (row.group != &group_) continue;
      for (size_t i = 0; i < up_.size() && interrupted == 0; ++i) {
        // Everyone begins once: to be first or last is no luck of one.
        const auto& [subject, contestant] = up_[(i + run_) % up_.size()];
        progress_.Next(run_, row.name, subject->name);
        absl::StatusOr<Sample> sample = contestant->Measure(row.task);
        if (interrupted != 0 || sample.status().code() == absl::StatusCode::kUnimplemented) continue;
        Result& result = ResultOf(row, *subject);
        if (sample.ok()) {
          result.samples[run_] = *std::move(sample);
        } else {
          result.failure = std::string(sample.status().message());
        }
      }
    }
  }

 private:
  absl::StatusOr<std::unique_ptr<Contestant>> Start(const Subject& subject) {
    if (subject.medium == Medium::kInProcess) return OpenStack(subject, report_.settings);
    if (subject.kernel_disk) return AttachKernelDisk(subject, report_.settings);
    if (subject.kind == Kind::kReference) return PrepareFio(report_.settings);
    return StartServer(subject, report_.settings);
  }

  static Result& ResultOf(Row& row, const Subject& subject) {
    for (Result& result : row.results) {
      if (result.subject == &subject) return result;
    }
    row.results.push_back({&subject, {}});
    return row.results.back();
  }

  void Miss(const Subject& subject, const absl::Status& status) {
    const std::string name = absl::StrCat(group_.name, "/", subject.name);
    for (const auto& [known, reason] : report_.missing) {
      if (known == name) return;
    }
    report_.missing.push_back({name, std::string(status.message())});
  }

  const Group& group_;
  Report& report_;
  const int run_;
  Progress& progress_;
  std::vector<std::pair<const Subject*, std::unique_ptr<Contestant>>> up_;
};

void Measure(const Options& options, Report& report) {
  std::vector<std::pair<const Group*, std::vector<const Subject*>>> groups;
  int total = 0;
  for (const Group& group : Groups()) {
    int rows = 0;
    for (const Row& row : report.rows) rows += row.group == &group;
    if (rows == 0) continue;
    std::vector<const Subject*> subjects;
    for (const Subject& subject : group.subjects) {
      if (!Chosen(options, subject)) continue;
      subjects.push_back(&subject);
      report.subjects.push_back({&group, &subject, VersionOf(subject, report.settings)});
    }
    total += rows * static_cast<int>(subjects.size()) * report.runs;
    groups.push_back({&group, subjects});
  }
  const std::string load_before = LoadAverage();
  const StolenTime stolen_before = ReadStolenTime();
  Progress progress(total);
  for (int run = 0; run < report.runs && interrupted == 0; ++run) {
    for (const auto& [group, subjects] : groups) GroupRun(*group, report, run, progress).Do(subjects);
  }
  progress.Done();
  const StolenTime stolen_after = ReadStolenTime();
  report.machine.push_back({"load average before and after", absl::StrCat(load_before, " and ", LoadAverage())});
  if (stolen_after.total > stolen_before.total) {
    report.machine.push_back(
        {"time stolen by the hypervisor", absl::StrFormat("%.1f %%", (stolen_after.stolen - stolen_before.stolen) /
                                                                         (stolen_after.total - stolen_before.total) * 100)});
  }
  // In the order in which subjects are listed, whoever came first.
  for (Row& row : report.rows) {
    std::sort(row.results.begin(), row.results.end(), [](const Result& a, const Result& b) { return a.subject < b.subject; });
  }
}

// Leaves out what this machine has no devices for, and says why.
void LeaveOutKernelDisks(Report& report) {
  const absl::Status status = CheckKernelDisks();
  if (status.ok()) return;
  const auto needs_them = [](const Row& row) { return row.group->subjects.front().kernel_disk; };
  for (const Row& row : report.rows) {
    if (needs_them(row)) report.missing.push_back({row.name, std::string(status.message())});
  }
  report.rows.erase(std::remove_if(report.rows.begin(), report.rows.end(), needs_them), report.rows.end());
}

std::chrono::nanoseconds Nanoseconds(double seconds) { return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9)); }

absl::Status Prepare(const Options& options, Report& report) {
  absl::StatusOr<std::vector<Row>> rows = ParseRows(options.rows);
  if (!rows.ok()) return rows.status();
  report.rows = *std::move(rows);
  for (const std::string& name : options.subjects) {
    bool known = false;
    for (const Row& row : report.rows) {
      for (const Subject& subject : row.group->subjects) known = known || subject.name == name;
    }
    if (!known) {
      return absl::InvalidArgumentError(
          absl::StrCat("--subjects: no row that was chosen has a \"", name, "\"; --list tells them"));
    }
  }
  absl::StatusOr<uint64_t> size = ParseSize(options.size);
  if (!size.ok()) return size.status();
  constexpr uint64_t kMinSize = 16 << 20;
  if (*size < kMinSize || *size % (1 << 20) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("--size ", options.size, ": whole mebibytes, at least 16M"));
  }
  report.quick = options.quick;
  report.runs = options.quick ? 1 : options.runs;
  report.placement = options.placement;
  Settings& settings = report.settings;
  settings.size = options.quick ? kMinSize : *size;
  if (options.quick) settings.footprint_written = kMinSize;
  settings.duration = Nanoseconds(options.quick ? 0.05 : options.seconds);
  settings.warmup = Nanoseconds(options.quick ? 0.01 : options.warmup);
  settings.spin = Nanoseconds(options.spin_us * 1e-6);
  settings.programs = OwnFolder();
  return PlaceOnCpus(options.placement, settings);
}

absl::Status Write(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
}

void AddOptions(CLI::App& app, Options& options) {
  app.description(
      "Measures NBD servers of ours and of others side by side: one client, Unix sockets, in turns (A B C A B C ...), each "
      "turn\n"
      "with servers started anew. Tells medians, their spread, the server's CPU for each request as the system counts it, and\n"
      "latencies. Peers that are not installed are left out and named.");
  app.footer(
      "Examples:\n"
      "  bazel run -c opt //bench                                  the table: about 10 minutes\n"
      "  bazel run -c opt //bench -- --quick                       whether all of it works: seconds\n"
      "  bazel run -c opt //bench -- --rows 4k-randread-d32,file/64k-seqread-d4 --subjects buse,nbdkit\n"
      "  bazel run -c opt //bench -- --rows table,depth,layers --json all.json\n"
      "  bazel run -c opt //bench:report -- all.json all.html      plots of it\n"
      "docs/benchmarks.md says what can be learnt from the figures, and what cannot.");
  app.add_option("--rows", options.rows, "rows or sets of rows, as --list tells them")->delimiter(',')->capture_default_str();
  app.add_option("--subjects", options.subjects, "only these; absent: all that are installed")->delimiter(',');
  app.add_flag("--list", options.list, "list rows, subjects and how works are named, and end");
  app.add_option("--runs", options.runs, "turns for everyone. Fewer than 5 tell no ratios")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "length of one measurement")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  app.add_option("--warmup", options.warmup, "seconds of load before each measurement that do not count")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--size", options.size, "of each device. Each server of a memory disk takes as much memory")
      ->take_last()
      ->capture_default_str();
  app.add_option("--folder", options.folder, "where files are made, and removed. Absent: $TMPDIR or /tmp");
  app.add_option(
         "--placement", options.placement,
         "free: everything runs where the system puts it. apart: the client on one half of the CPUs, servers on the other, "
         "which varies less and holds servers with many threads back")
      ->check(CLI::IsMember({"free", "apart"}))
      ->capture_default_str();
  app.add_option("--spin", options.spin_us, "microseconds that the client waits actively before it sleeps")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--json", options.json, "write all that was measured to this file");
  app.add_flag("--quick", options.quick, "one short run on small devices, to see that all works. Tells no ratios");
}

int Run(const Options& options, int argc, char** argv) {
  const auto fail = [](const absl::Status& status) {
    std::fprintf(stderr, "bench: %s\n", std::string(status.message()).c_str());
    return status.code() == absl::StatusCode::kInvalidArgument ? kExitUsage : kExitFailure;
  };
  Report report;
  if (absl::Status status = Prepare(options, report); !status.ok()) return fail(status);
  const char* temporary = std::getenv("TMPDIR");
  const std::string where = !options.folder.empty() ? options.folder : temporary != nullptr ? temporary : "/tmp";
  Folders folders;
  if (absl::Status status = folders.Make(where, report.settings); !status.ok()) return fail(status);
  report.machine = DescribeMachine(report.settings.files_folder);
  report.command.assign(argv, argv + argc);
  const std::time_t now = std::time(nullptr);
  char date[32];
  std::strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", std::gmtime(&now));
  report.date = date;
  if (!Optimized())
    std::fprintf(stderr, "bench: this build is not optimized, its figures mean nothing: use bazel run -c opt\n");

  LeaveOutKernelDisks(report);
  Measure(options, report);
  if (interrupted != 0) {
    std::fprintf(stderr, "bench: interrupted, nothing was kept\n");
    return 128 + SIGINT;
  }
  std::fputs(report.ToText().c_str(), stdout);
  if (!options.json.empty()) {
    if (absl::Status status = Write(options.json, report.ToJson()); !status.ok()) return fail(status);
    std::fprintf(stderr, "bench: wrote %s; bazel run -c opt //bench:report -- %s report.html makes plots of it\n",
                 options.json.c_str(), options.json.c_str());
  }
  if (report.rows.empty()) return fail(absl::FailedPreconditionError("nothing was measured"));
  // Our own must be there; peers need not.
  for (const auto& [name, reason] : report.missing) {
    if (absl::StrContains(name, "/buse") || absl::StartsWith(name, "stacks/"))
      return fail(absl::InternalError(absl::StrCat(name, ": ", reason)));
  }
  return kExitOk;
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app;
  app.name("bench");
  AddOptions(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  if (options.list) {
    PrintList();
    return kExitOk;
  }
  EnterCallersFolder();
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  return Run(options, argc, argv);
}

}  // namespace
}  // namespace buse::bench

int main(int argc, char** argv) { return buse::bench::Main(argc, argv); }
