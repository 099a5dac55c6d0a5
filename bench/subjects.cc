// SPDX-License-Identifier: Apache-2.0

#include "bench/subjects.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace buse::bench {
namespace {

const char kTarget[] = "nbd+unix:///?socket={socket}";
const std::vector<int> kLayers = {0, 1, 2, 4, 8, 16, 32};

Subject Stack(const std::string& name, const std::string& stack, const std::string& what) {
  return {name, what, Kind::kOurs, Medium::kOwn, {"{bench}/stacks", stack, "{size}", kTarget}, {}};
}

Subject FileStack(const std::string& name, const std::string& what, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "{bench}/stacks");
  arguments.push_back(kTarget);
  return {name, what, Kind::kOurs, Medium::kFile, arguments, {}};
}

// With checksums, so that the file is formatted first.
Subject FormattedStack(const std::string& stack, const std::string& what, const std::vector<std::string>& options) {
  std::vector<std::string> arguments = {stack};
  arguments.insert(arguments.end(), options.begin(), options.end());
  arguments.push_back("{file}");
  Subject subject = FileStack(absl::StrCat("buse-", stack), what, arguments);
  subject.prepare = {"{bench}/stacks", stack, "format", "{file}"};
  return subject;
}

Subject Nbdkit(const std::string& name, const std::string& what, const std::vector<std::string>& options,
               const std::vector<std::string>& plugin = {"memory", "{size}"}, Medium medium = Medium::kOwn) {
  Subject subject = {name, what, Kind::kPeer, medium, {"nbdkit", "-f", "--unix", "{socket}"}, {"nbdkit", "--version"}};
  subject.command.insert(subject.command.end(), options.begin(), options.end());
  subject.command.insert(subject.command.end(), plugin.begin(), plugin.end());
  return subject;
}

Subject QemuNbd(const std::string& name, const std::string& what, Medium medium, const std::vector<std::string>& options) {
  Subject subject = {name,
                     what,
                     Kind::kPeer,
                     medium,
                     {"qemu-nbd", "--persistent", "--shared=64", "--socket", "{socket}"},
                     {"qemu-nbd", "--version"}};
  subject.command.insert(subject.command.end(), options.begin(), options.end());
  return subject;
}

Subject NbdServer(Medium medium) {
  return {.name = "nbd-server",
          .what = "nbd-server, a process for each connection",
          .kind = Kind::kPeer,
          .medium = medium,
          .command = {"nbd-server", "-C", "{folder}/config", "-p", "{folder}/pid"},
          .version = {"nbd-server", "-V"},
          .export_name = "disk",
          .config = "[generic]\n  unixsock = {socket}\n[disk]\n  exportname = {file}\n",
          .daemon = true};
}

std::vector<Subject> MemorySubjects() {
  return {{"floor",
           "a memory disk by hand: no layers, no checks, no options",
           Kind::kFloor,
           Medium::kOwn,
           {"{bench}/floor", "{bytes}", "{socket}"},
           {}},
          Stack("buse", "memory", "Server<Memory>"),
          {"buse-spin",
           "Server<Memory> that looks for requests for 100 us before it sleeps",
           Kind::kOurs,
           Medium::kOwn,
           {"{bench}/stacks", "memory", "{size}", kTarget, "--spin", "100"},
           {}},
          Stack("buse-passthrough4", "passthrough4", "Server over four Passthrough over Memory"),
          Stack("buse-stats", "stats", "Server<Stats<Memory>>"),
          {"classic",
           "BUSE's loop of 2013: one request at a time, header and payload apart",
           Kind::kPeer,
           Medium::kOwn,
           {"{bench}/classic", "{bytes}", "{socket}"},
           {}},
          Nbdkit("nbdkit-t1", "nbdkit memory, one thread", {"--threads=1"}),
          Nbdkit("nbdkit", "nbdkit memory, as it is started by default: 16 threads", {}),
          QemuNbd("qemu-nbd-tmpfs", "qemu-nbd over a file in memory", Medium::kTmpfs, {"--format=raw", "{file}"}),
          QemuNbd("qemu-nbd-null", "qemu-nbd over null-co, which keeps nothing", Medium::kNone,
                  {"--image-opts", "driver=null-co,size={bytes}"}),
          NbdServer(Medium::kTmpfs)};
}

// 0 to 32 layers that do nothing: ours, and nbdkit's filters that do nothing.
std::vector<Subject> LayerSubjects() {
  std::vector<Subject> subjects;
  for (const int layers : kLayers) {
    subjects.push_back(Stack(absl::StrCat("buse-", layers), layers == 0 ? "memory" : absl::StrCat("passthrough", layers),
                             absl::StrCat(layers, " Passthrough over Memory")));
  }
  for (const int layers : kLayers) {
    std::vector<std::string> options = {"--threads=1"};
    options.insert(options.end(), layers, "--filter=nofilter");
    subjects.push_back(
        Nbdkit(absl::StrCat("nbdkit-", layers), absl::StrCat("nbdkit memory, one thread, ", layers, " nofilter"), options));
  }
  return subjects;
}

std::vector<Subject> FileSubjects() {
  return {FileStack("buse", "Server<FileBacked>", {"file", "{file}"}),
          FileStack("buse-mmap", "the same, which sends from the page cache", {"file", "{file}", "--mmap"}),
          FormattedStack("checksum", "Server<Checksum<FileBacked>>", {}),
          FormattedStack("safedisk", "Server<Cache<Checksum<FileBacked>>>, a cache of 64 MiB", {"--size=64M"}),
          Nbdkit("nbdkit-t1", "nbdkit file, one thread", {"--threads=1"}, {"file", "{file}"}, Medium::kFile),
          Nbdkit("nbdkit", "nbdkit file, as it is started by default: 16 threads", {}, {"file", "{file}"}, Medium::kFile),
          QemuNbd("qemu-nbd", "qemu-nbd over a raw file", Medium::kFile, {"--format=raw", "{file}"}),
          NbdServer(Medium::kFile)};
}

std::vector<Subject> DirectSubjects() {
  return {FileStack("buse", "Server<DirectFileBacked>, direct", {"direct", "{file}", "--direct"}),
          FileStack("buse-workers0", "the same without workers: one request of a connection after another",
                    {"direct", "{file}", "--direct", "--workers", "0"}),
          QemuNbd("qemu-nbd-io_uring", "qemu-nbd over a raw file, O_DIRECT, io_uring", Medium::kFile,
                  {"--cache=none", "--aio=io_uring", "--format=raw", "{file}"}),
          QemuNbd("qemu-nbd-native", "qemu-nbd over a raw file, O_DIRECT, Linux AIO", Medium::kFile,
                  {"--cache=none", "--aio=native", "--format=raw", "{file}"}),
          {"fio",
           "fio on the file itself, O_DIRECT, io_uring; no server",
           Kind::kReference,
           Medium::kFile,
           {"fio"},
           {"fio", "--version"}}};
}

// Ours, attached as a user does it.
Subject KernelStack(const std::string& name, const std::string& what, const std::vector<std::string>& options) {
  Subject subject = {name, what, Kind::kOurs, Medium::kOwn, {"{bench}/stacks", "memory", "{size}", "{device}"}, {}};
  subject.command.insert(subject.command.end(), options.begin(), options.end());
  return subject;
}

// One that listens on a socket, and is attached by nbd-client.
Subject ByNbdClient(Subject subject, const std::vector<std::string>& options) {
  subject.attach = {"nbd-client", "-unix", "{socket}", "{device}"};
  subject.attach.insert(subject.attach.end(), options.begin(), options.end());
  return subject;
}

std::vector<Subject> KernelSubjects() {
  std::vector<Subject> subjects = {
      KernelStack("buse", "Server<Memory>, with the connections it chooses itself", {}),
      KernelStack("buse-spin", "the same, looking for requests for 100 us before it sleeps", {"--spin=100"}),
      KernelStack("buse-c1", "Server<Memory>, one connection", {"--connections=1"}),
      KernelStack("buse-c4", "Server<Memory>, four connections", {"--connections=4"}),
      {"classic",
       "BUSE's way of 2013: one connection by ioctl, one request at a time, header and payload apart",
       Kind::kPeer,
       Medium::kOwn,
       {"{bench}/classic", "{bytes}", "{device}"},
       {}},
      {"busexmp", "BUSE's own example", Kind::kPeer, Medium::kOwn, {"busexmp", "{bytes}", "{device}"}, {"busexmp", "--usage"}},
      ByNbdClient(Nbdkit("nbdkit-t1", "nbdkit memory, one thread, by nbd-client", {"--threads=1"}), {}),
      ByNbdClient(Nbdkit("nbdkit", "nbdkit memory as it is started by default, by nbd-client", {}), {}),
      ByNbdClient(Nbdkit("nbdkit-c4", "the same with four connections", {}), {"-connections", "4"}),
      QemuNbd("qemu-nbd", "qemu-nbd over a file in memory, which attaches itself", Medium::kTmpfs,
              {"--verbose", "--connect={device}", "--format=raw", "{file}"})};
  for (Subject& subject : subjects) subject.kernel_disk = true;
  return subjects;
}

std::vector<std::string> Depths() {
  std::vector<std::string> rows;
  for (const char* work : {"4k-randread", "4k-randwrite"}) {
    for (const int depth : {1, 2, 4, 8, 16, 32, 64, 128}) rows.push_back(absl::StrCat("memory/", work, "-d", depth));
  }
  return rows;
}

std::vector<std::string> Matrix() {
  std::vector<std::string> rows;
  for (const char* block : {"512", "4k", "16k", "64k", "256k", "1m"}) {
    for (const char* pattern : {"randread", "randwrite"}) {
      for (const int depth : {1, 8, 32}) {
        for (const int connections : {1, 4}) {
          rows.push_back(absl::StrCat("memory/", block, "-", pattern, "-d", depth,
                                      connections == 1 ? "" : absl::StrCat("-c", connections)));
        }
      }
    }
  }
  return rows;
}

}  // namespace

const char* KindName(Kind kind) {
  switch (kind) {
    case Kind::kFloor:
      return "floor";
    case Kind::kOurs:
      return "ours";
    case Kind::kPeer:
      return "peer";
    case Kind::kReference:
      return "reference";
  }
  return "";
}

std::vector<Group> MakeGroups(std::vector<Subject> in_process) {
  return {{"memory", "disks in memory", MemorySubjects()},
          {"layers", "0 to 32 layers that do nothing over a disk in memory", LayerSubjects()},
          {"file", "files in the page cache", FileSubjects()},
          {"direct", "files on their disk, past the page cache (O_DIRECT)", DirectSubjects()},
          {"kernel", "disks in memory as devices of the kernel, /dev/nbdN; needs root and a kernel with nbd", KernelSubjects()},
          {"stacks", "stacks over files without a server, called by threads of the benchmark: -d1, and -cN for N threads",
           std::move(in_process)}};
}

const std::vector<RowSet>& RowSets() {
  static const auto& sets =
      *new std::vector<RowSet>{{"table",
                                "the works that servers are judged by",
                                {"memory/4k-randread-d32", "memory/4k-randwrite-d32", "memory/4k-randread-d1",
                                 "memory/256k-seqread-d8", "memory/256k-seqwrite-d8", "memory/4k-randread-d16-c4",
                                 "file/4k-randread-d32", "direct/4k-randread-d32", "memory/idle", "memory/footprint"}},
                               {"depth", "4 KiB by depth, 1 to 128", Depths()},
                               {"layers", "what an empty layer costs", {"layers/4k-randread-d32"}},
                               {"stacks",
                                "what checksums, caches, mirrors and parity cost",
                                {"stacks/256k-seqread-d1", "stacks/256k-seqwrite-d1", "stacks/4k-randread-d1",
                                 "stacks/4k-randread-d1-c4", "stacks/4k-randwrite-d1", "stacks/4k-randwrite-d1-f1"}},
                               {"kernel",
                                "kernel devices, where there are any",
                                {"kernel/4k-randread-d1", "kernel/4k-randwrite-d1", "kernel/4k-randread-d32",
                                 "kernel/4k-randwrite-d32", "kernel/256k-seqread-d8", "kernel/256k-seqwrite-d8"}},
                               {"matrix", "block size x pattern x depth x connections", Matrix()}};
  return sets;
}

}  // namespace buse::bench
