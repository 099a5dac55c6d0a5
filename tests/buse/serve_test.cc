// SPDX-License-Identifier: Apache-2.0
//
// Whole programs: their command lines, sockets, signals and exit codes.

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "gtest/gtest.h"
#include "tests/buse/served.h"
#include "tests/nbd_client.h"
#include "tests/process.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Big;
using testing::ClientOption;
using testing::Folder;
using testing::NbdClient;
using testing::Process;
using testing::Request;
using testing::Result;
using testing::Runfile;
using testing::RunToEnd;
using testing::Served;
using testing::ServesWell;
using testing::SimpleReply;
using testing::Uri;

constexpr uint16_t kRead = 0, kWrite = 1, kFlush = 3;

const std::string kMemdisk = Runfile("examples/memdisk");
const std::string kLoopback = Runfile("examples/loopback");

TEST(ServeTest, BadCommandLines) {
  Folder folder;
  std::ofstream(folder / "file") << "x";
  const std::string long_path = folder / std::string(120, 'x');
  struct Row {
    std::vector<std::string> arguments;
    int exit_code;
    std::string says;
  };
  const Row rows[] = {
      {{kMemdisk}, 2, "size: missing"},
      {{kMemdisk, "0"}, 2, "below the least"},
      {{kMemdisk, "-1"}, 2, "\"-1\" is"},
      {{kMemdisk, "12Q"}, 2, "\"12Q\" is"},
      {{kMemdisk, "1e30"}, 2, "\"1e30\" is"},
      {{kMemdisk, "16E"}, 2, "16E"},
      {{kMemdisk, "8E"}, 2, "above the most"},
      {{kMemdisk, "1M", "nonsense"}, 2, "nonsense"},
      {{kMemdisk, "1M", "/tmp/x.sock"}, 2, "nbd+unix:///?socket=/tmp/x.sock"},
      {{kMemdisk, "1M", "http://host/"}, 2, "nbd://"},
      {{kMemdisk, "1M", "nbds://host/"}, 2, "--tls-certificates=DIR"},
      {{kMemdisk, "1M", "nbd+vsock://0xffff/"}, 2, "as its CID"},
      {{kMemdisk, "1M", "nbd://host:99999/"}, 2, "99999"},
      {{kMemdisk, "1M", "nbd+unix:///"}, 2, "socket="},
      {{kMemdisk, "1M", Uri(long_path)}, 2, "107"},
      {{kMemdisk, "1M", Uri(folder / "file")}, 4, "is no socket"},
      {{kMemdisk, "1M", Uri(folder / "none/s")}, 3, "no folder"},
      {{kMemdisk, "1M", "nbd://no.such.host.invalid/"}, 3, "no.such.host.invalid"},
      {{kMemdisk, "1M", "/dev/null"}, 3, "/dev/null"},
      {{kMemdisk, "1M", "/dev/nbd-none"}, 3, "nbd"},
      {{kMemdisk, "1M", "/dev/nbd0", "--resize-limit", "2M"}, 2, "the command \"resize\""},
      {{kLoopback, folder / "new", "/dev/nbd0", "--mmap"}, 2, "--mmap is for NBD clients; /dev/nbd0"},
      {{kMemdisk, "1M", Uri(folder / "s"), "--mmap"}, 2, "--mmap: this stack does not keep its bytes in a file"},
      {{kMemdisk, "1M", Uri(folder / "s"), "more"}, 2, "more"},
      {{kMemdisk, "1M", Uri(folder / "s"), "--block-size", "777"}, 2, "777"},
      {{kLoopback, folder / "new", "--create", "1M", "/dev/null"}, 3, "/dev/null"},
      {{kLoopback, folder / "new"}, 3, "new"},  // the line before created nothing
      {{kMemdisk, "1M", "--ofset"}, 2, "--ofset"},
      {{kMemdisk, "1M", "--max-clients", "0"}, 2, "max-clients"},
      {{kMemdisk, "1M", "--max-memory", "32M"}, 2, "34603008 that one connection may need"},
      {{kLoopback, "/dev/null", "--max-memory", "65M"}, 2, "69206016 that one connection may need"},
      {{kMemdisk, "1M", "--max-clients", "many"}, 2, "many"},
      {{kMemdisk, "1M", "--max-request", "4K"}, 2, "max-request"},
      {{kMemdisk, "1M", "--max-request", "64M"}, 2, "max-request"},
      {{kMemdisk, "--disconnect", "/dev/null"}, 3, "/dev/null"},
      {{kLoopback, folder / "none"}, 3, "none"},
      {{kLoopback, folder / "none", "--create", "12Q"}, 2, "12Q"},
      {{kLoopback, folder / "."}, 2, "directory"},
  };
  for (const Row& row : rows) {
    const Result result = RunToEnd(row.arguments);
    std::string line;
    for (const std::string& argument : row.arguments) line += argument + " ";
    EXPECT_EQ(result.exit_code, row.exit_code) << line << "\n" << result.output;
    EXPECT_NE(result.output.find(row.says), std::string::npos) << line << "\n" << result.output;
  }
}

TEST(ServeTest, AKernelWithoutNbdIsNamedWithTheWayOut) {
  if (access("/sys/module/nbd", F_OK) == 0 || access("/dev/nbd0", F_OK) == 0) {
    GTEST_SKIP() << "this kernel has nbd";
  }
  const Result result = RunToEnd({kMemdisk, "1M", "/dev/nbd0"});
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_NE(result.output.find("modprobe nbd"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("nbd+unix://"), std::string::npos) << result.output;
}

TEST(ServeTest, HelpTeaches) {
  const Result result = RunToEnd({kMemdisk, "--help"});
  EXPECT_EQ(result.exit_code, 0);
  for (const char* part :
       {"Usage: memdisk", "SIZE", "TARGET", "stack", "--verbose", "-v", "--disconnect", "Exit codes", "memdisk 128M"}) {
    EXPECT_NE(result.output.find(part), std::string::npos) << part << "\n" << result.output;
  }
}

TEST(ServeTest, WithoutATargetItServesOnASocketOfItsOwn) {
  Process program({kMemdisk, "128M"});
  ASSERT_TRUE(program.WaitFor("Ctrl-C"));
  const std::string& said = program.output();
  const size_t begin = said.find("socket=") + 7;
  const std::string path = said.substr(begin, said.find('\n', begin) - begin);
  EXPECT_NE(said.find("128 MiB on nbd+unix:///?socket="), std::string::npos) << said;
  EXPECT_TRUE(ServesWell(path));
  program.Signal(SIGINT);
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_NE(access(path.c_str(), F_OK), 0) << "the socket is gone";
}

// A listening socket at descriptor 3, and the variables, as a service manager leaves them: /bin/sh cannot do that.
constexpr char kManager[] =
    "import os, socket, sys\n"
    "s = socket.socket(socket.AF_UNIX)\n"
    "s.bind(sys.argv[1])\n"
    "if sys.argv[2] == 'listening': s.listen()\n"
    "os.dup2(os.dup(s.fileno()), 3)\n"
    "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n";

TEST(ServeTest, TakesTheSocketOfAServiceManager) {
  // libnbd leaves its server a socket as systemd does.
  const Result size = RunToEnd({"nbdinfo", "--size", "[", kMemdisk, "3M", "]"});
  EXPECT_EQ(size.exit_code, 0) << size.output;
  EXPECT_NE(size.output.find("3145728"), std::string::npos) << size.output;

  Folder folder;
  const std::string path = folder / "managed";
  Process server({"python3", "-c", kManager, path, "listening", kMemdisk, "3M"});
  ASSERT_TRUE(server.WaitFor(Uri(path))) << server.output();
  EXPECT_TRUE(NbdClient(path).Go());
  EXPECT_TRUE(NbdClient(path).Go()) << "a second one";
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << server.output();
  EXPECT_EQ(access(path.c_str(), F_OK), 0) << "the socket is the manager's";
}

TEST(ServeTest, ASocketOfAServiceManagerThatCannotBeUsedIsNamed) {
  Folder folder;
  const Result deaf = RunToEnd({"python3", "-c", kManager, folder / "deaf", "bound", kMemdisk, "3M"});
  EXPECT_EQ(deaf.exit_code, 2) << deaf.output;
  EXPECT_NE(deaf.output.find("ListenStream="), std::string::npos) << deaf.output;
  const Result both = RunToEnd({"python3", "-c", kManager, folder / "both", "listening", kMemdisk, "3M", Uri(folder / "s")});
  EXPECT_EQ(both.exit_code, 2) << both.output;
  EXPECT_NE(both.output.find("leave one out"), std::string::npos) << both.output;
}

// Those of another process, as a shell that systemd started would hand on.
TEST(ServeTest, SocketsThatAreMeantForAnotherProcessAreNotTaken) {
  Folder folder;
  Process server({"env", "LISTEN_PID=1", "LISTEN_FDS=1", kMemdisk, "3M", Uri(folder / "s")});
  ASSERT_TRUE(server.WaitFor("Ctrl-C")) << server.output();
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << server.output();
}

// Whether clients reach it is for a kernel that can loop vsock back: tests/kernel.
TEST(ServeTest, VsockIsListenedOn) {
  Process server({kMemdisk, "1M", "nbd+vsock://:0/disk"});
  if (!server.WaitFor("Ctrl-C")) {
    EXPECT_EQ(server.Wait(), 3) << server.output();
    EXPECT_NE(server.output().find("modprobe vsock"), std::string::npos) << server.output();
    GTEST_SKIP() << "this kernel has no vsock";
  }
  const std::string& said = server.output();
  const size_t begin = said.find("nbd+vsock://");
  ASSERT_NE(begin, std::string::npos) << said;
  const std::string uri = said.substr(begin, said.find('\n', begin) - begin);
  const std::string port = uri.substr(uri.rfind(':') + 1, uri.rfind('/') - uri.rfind(':') - 1);
  int number = 0;
  ASSERT_TRUE(absl::SimpleAtoi(port, &number)) << uri;
  // libnbd cannot read larger ones.
  EXPECT_GE(number, 1024) << uri;
  EXPECT_LE(number, 65535) << uri;
  const Result second = RunToEnd({kMemdisk, "1M", "nbd+vsock://:" + port + "/"});
  EXPECT_EQ(second.exit_code, 4) << second.output;
  const Result foreign = RunToEnd({kMemdisk, "1M", "nbd+vsock://77777/"});
  EXPECT_EQ(foreign.exit_code, 3) << foreign.output;
  EXPECT_NE(foreign.output.find("77777 is no CID of this machine"), std::string::npos) << foreign.output;
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0) << server.output();
}

// libnbd's nbd_connect_command connects the standard input and output of a program, as inetd does; its interpreter must be the
// system's.
Result ConnectCommand(const std::string& script, const std::vector<std::string>& command) {
  std::vector<std::string> arguments = {"/usr/bin/python3", "-c",
                                        "import nbd, os, sys, time\nh = nbd.NBD()\nh.connect_command(sys.argv[1:])\n" + script};
  arguments.insert(arguments.end(), command.begin(), command.end());
  return RunToEnd(arguments);
}

TEST(ServeTest, StandardInputIsServedToItsEnd) {
  Folder folder;
  const std::string disk = folder / "disk";
  const Result result = ConnectCommand(
      "h.pwrite(b'hello' * 1000, 4096)\nassert h.pread(5000, 4096) == b'hello' * 1000\nassert h.get_size() == 1 << 20\n"
      "h.shutdown()\nprint('all as it should be')\n",
      {kLoopback, disk, "--create", "1M", "-", "-v"});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_NE(result.output.find("all as it should be"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("write 4096+5000 ok"), std::string::npos) << result.output;
  EXPECT_EQ(result.output.find("Try:"), std::string::npos) << "it would be taken for an answer";
  EXPECT_EQ(testing::Shell("dd if=" + disk + " bs=1 skip=4096 count=5 status=none").output, "hello");
  // It ended by itself, flushed, and let go of the file.
  const Result again = ConnectCommand("assert h.pread(5, 4096) == b'hello'", {kLoopback, disk, "-", "--quiet"});
  EXPECT_EQ(again.exit_code, 0) << again.output;
}

TEST(ServeTest, StandardInputEndsWithItsClientOrBySignal) {
  constexpr char kParent[] =
      "import os, signal, socket, subprocess, sys\n"
      "ours, theirs = socket.socketpair()\n"
      "server = subprocess.Popen(sys.argv[2:], stdin=theirs, stdout=theirs)\n"
      "theirs.close()\n"
      "assert ours.recv(18, socket.MSG_WAITALL) == b'NBDMAGICIHAVEOPT\\0\\3'\n"
      "if sys.argv[1] == 'close': ours.close()\n"
      "if sys.argv[1] == 'rude': ours.sendall(b'x' * 100)\n"
      "if sys.argv[1] == 'signal': server.send_signal(signal.SIGTERM)\n"
      "sys.exit(server.wait(30))\n";
  for (const char* how : {"close", "rude", "signal"}) {
    const Result result = RunToEnd({"python3", "-c", kParent, how, kMemdisk, "1M", "-"});
    EXPECT_EQ(result.exit_code, 0) << how << "\n" << result.output;
  }
}

TEST(ServeTest, StandardInputThatIsNoClientIsNamed) {
  Folder folder;
  struct Row {
    const char* line;
    const char* is;
  };
  const Row rows[] = {
      {"%s </dev/null", "no socket"},
      {"true | %s", "a pipe"},
      {"%s <&-", "no socket"},
      {"script -qec '%s' /dev/null", "a terminal"},
      {"python3 -c 'import socket, subprocess, sys; s = socket.socket(); s.bind((\"127.0.0.1\", 0)); s.listen(); "
       "sys.exit(subprocess.run(sys.argv[1:], stdin=s).returncode)' %s",
       "not connected"},
  };
  for (const Row& row : rows) {
    std::string line = row.line;
    line.replace(line.find("%s"), 2, kLoopback + " " + (folder / "new") + " --create 1M -");
    const Result result = testing::Shell(line);
    EXPECT_EQ(result.exit_code, 2) << line << "\n" << result.output;
    EXPECT_NE(result.output.find(row.is), std::string::npos) << line << "\n" << result.output;
  }
  EXPECT_NE(access((folder / "new").c_str(), F_OK), 0) << "nothing was created";
}

TEST(ServeTest, EverySignalToEndEndsItCleanly) {
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) {
    Served served;
    NbdClient idle(served.path);
    ASSERT_TRUE(idle.Go());
    EXPECT_EQ(served.End(signal), 0);
    EXPECT_TRUE(idle.Closed());
    EXPECT_NE(access(served.path.c_str(), F_OK), 0);
  }
}

TEST(ServeTest, RequestsThatArrivedBeforeTheSignalAreAnswered) {
  Served served;
  NbdClient client(served.path);
  ASSERT_TRUE(client.Go());
  std::string requests, replies;
  for (uint64_t i = 0; i < 1000; ++i) {
    requests += Request(0, kWrite, i, i * 64, 64) + std::string(64, 'x');
    replies += SimpleReply(0, i);
  }
  client.Send(requests);
  EXPECT_EQ(served.End(), 0);
  EXPECT_EQ(client.Receive(replies.size() + 1), replies);
}

TEST(ServeTest, TheSocketOfAKilledServerIsTakenOver) {
  Served served;
  EXPECT_EQ(served.End(SIGKILL), 128 + SIGKILL);
  ASSERT_EQ(access(served.path.c_str(), F_OK), 0);
  Process again({kMemdisk, "1M", Uri(served.path)});
  ASSERT_TRUE(again.WaitFor("Ctrl-C")) << again.output();
  EXPECT_TRUE(ServesWell(served.path));
}

TEST(ServeTest, TheSocketOfALiveServerIsNot) {
  Served served;
  const Result second = RunToEnd({kMemdisk, "1M", Uri(served.path)});
  EXPECT_EQ(second.exit_code, 4);
  EXPECT_NE(second.output.find("already"), std::string::npos) << second.output;
  EXPECT_TRUE(ServesWell(served.path));
}

TEST(ServeTest, ARelativePathMeansWhatWasTypedUnderBazelRun) {
  Folder folder;
  Process program({"env", "BUILD_WORKING_DIRECTORY=" + (folder / "."), kLoopback, "disk", "--create", "1M", Uri(folder / "s")});
  ASSERT_TRUE(program.WaitFor("Ctrl-C")) << program.output();
  EXPECT_EQ(access((folder / "disk").c_str(), F_OK), 0);
}

TEST(ServeTest, AFileInUseIsBusy) {
  Folder folder;
  Process first({kLoopback, folder / "disk", "--create", "1M", Uri(folder / "a")});
  ASSERT_TRUE(first.WaitFor("Ctrl-C")) << first.output();
  const Result second = RunToEnd({kLoopback, folder / "disk", Uri(folder / "b")});
  EXPECT_EQ(second.exit_code, 4);
  EXPECT_NE(second.output.find("in use"), std::string::npos) << second.output;
}

TEST(ServeTest, AReadOnlyFileIsServedReadOnly) {
  Folder folder;
  std::ofstream(folder / "disk") << std::string(4096, 'x');
  Process program({kLoopback, folder / "disk", "--read-only", Uri(folder / "s")});
  ASSERT_TRUE(program.WaitFor("Ctrl-C")) << program.output();
  NbdClient client(folder / "s");
  ASSERT_TRUE(client.Go());
  EXPECT_EQ(client.flags & 2, 2);
  std::string data = "y", back;
  EXPECT_EQ(client.Do(0, kWrite, 0, 1, &data), 1u);
  EXPECT_EQ(client.Do(0, kRead, 0, 1, &back), 0u);
  EXPECT_EQ(back, "x");
}

TEST(ServeTest, ARefusedFlushAtTheEndIsAnExitCode) {
  // What the device fails is reported while it serves; here the file vanishes from under a write.
  Folder folder;
  Process program({kLoopback, folder / "disk", "--create", "1M", Uri(folder / "s")});
  ASSERT_TRUE(program.WaitFor("Ctrl-C")) << program.output();
  NbdClient client(folder / "s");
  ASSERT_TRUE(client.Go());
  ASSERT_EQ(truncate((folder / "disk").c_str(), 4096), 0);
  EXPECT_EQ(client.Do(0, kRead, 8192, 512), 5u) << "EIO, and no payload";
  EXPECT_EQ(client.Do(0, kRead, 0, 512), 0u);
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_NE(program.output().find("read 8192+512 failed"), std::string::npos) << program.output();
}

TEST(ServeTest, AClosedStandardOutputDoesNotLandInTheDisk) {
  Folder folder;
  for (const char* closed : {">&-", "2>&-", "<&- >&- 2>&-"}) {
    Process program(
        {"sh", "-c", "exec " + kLoopback + " " + (folder / "disk") + " --create 1M '" + Uri(folder / "s") + "' " + closed});
    bool served = false;
    for (int tries = 0; tries < 200 && !served; ++tries) {
      usleep(20000);
      if (access((folder / "s").c_str(), F_OK) != 0) continue;
      NbdClient rude(folder / "s");
      rude.Send(Big(4, 0xffffffff));
      rude.Receive(100);
      NbdClient client(folder / "s");
      served = client.Go();
    }
    EXPECT_TRUE(served) << closed;
    program.Signal(SIGTERM);
    EXPECT_EQ(program.Wait(), 0) << closed;
    EXPECT_EQ(testing::RunToEnd({"cmp", "-n", "1048576", folder / "disk", "/dev/zero"}).exit_code, 0) << closed;
  }
}

TEST(ServeTest, AFullPipeOfMessagesHoldsNothingUp) {
  Folder folder;
  std::ofstream(folder / "disk") << std::string(1 << 20, 'x');
  // Nobody reads the pipe, which is full before the server starts.
  Process program(
      {"bash", "-c",
       "exec 2> >(exec sleep 10 >/dev/null 2>&1); dd if=/dev/zero bs=1k count=1000 oflag=nonblock of=/dev/stderr status=none; "
       "exec " +
           kLoopback + " " + (folder / "disk") + " '" + Uri(folder / "s") + "'"});
  ASSERT_TRUE(program.WaitFor("Ctrl-C"));
  NbdClient client(folder / "s");
  ASSERT_TRUE(client.Go());
  ASSERT_EQ(truncate((folder / "disk").c_str(), 4096), 0);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(client.Do(0, kRead, 8192, 512), 5u);
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait(), 0);
}

TEST(ServeTest, WhatIsIgnoredStaysIgnored) {
  Folder folder;
  Process program({"sh", "-c", "trap '' HUP; exec " + kMemdisk + " 1M '" + Uri(folder / "s") + "'"});
  ASSERT_TRUE(program.WaitFor("Ctrl-C"));
  program.Signal(SIGHUP);
  usleep(200000);
  EXPECT_TRUE(ServesWell(folder / "s")) << "nohup means what it says";
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait(), 0);
}

TEST(ServeTest, TheLimitOfAFilesSizeIsAnErrorAndNoDeath) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer keeps its own memory in a file, which the limit forbids";
#endif
  Folder folder;
  Process program({"bash", "-c", "ulimit -f 100; exec " + kMemdisk + " 64M '" + Uri(folder / "s") + "'"});
  const int exit_code = program.WaitFor("Ctrl-C") ? 0 : program.Wait();
  EXPECT_EQ(exit_code, 1) << "it cannot have its memory: " << program.output();
  EXPECT_NE(program.output().find("(ulimit -n, -f)"), std::string::npos) << program.output();
}

TEST(ServeTest, AFloodOfFailuresIsSummedUp) {
  Folder folder;
  Process program({kLoopback, folder / "disk", "--create", "1M", Uri(folder / "s")});
  ASSERT_TRUE(program.WaitFor("Ctrl-C")) << program.output();
  NbdClient client(folder / "s");
  ASSERT_TRUE(client.Go());
  ASSERT_EQ(truncate((folder / "disk").c_str(), 4096), 0);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(client.Do(0, kRead, 8192, 512), 5u);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  EXPECT_EQ(client.Do(0, kRead, 8192, 512), 5u);
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait(), 0);
  EXPECT_NE(program.output().find("more lines like these"), std::string::npos);
  EXPECT_LT(program.output().size(), 20000u);
}

TEST(ServeTest, NobodyReadingItsOutputDoesNotEndIt) {
  Folder folder;
  Process program({"bash", "-c", "exec > >(true); sleep 0.5; exec " + kMemdisk + " 1M '" + Uri(folder / "s") + "'"});
  bool served = false;
  for (int tries = 0; tries < 200 && !served; ++tries) {
    usleep(50000);
    served = access((folder / "s").c_str(), F_OK) == 0 && ServesWell(folder / "s");
  }
  EXPECT_TRUE(served);
  program.Signal(SIGTERM);
  EXPECT_EQ(program.Wait(), 0);
}

TEST(ServeTest, VerboseLogsRequestsAndClients) {
  for (const char* option : {"-v", "--verbose"}) {
    Served served({option});
    EXPECT_TRUE(ServesWell(served.path));
    EXPECT_EQ(served.End(), 0);
    for (const char* part : {"connected", "write 4096+5 ok", "view 4096+5 ok"}) {
      EXPECT_NE(served.program->output().find(part), std::string::npos) << part << "\n" << served.program->output();
    }
  }
}

TEST(ServeTest, SpinningServesAndStopsWhenNothingComes) {
  Served served({"--spin", "2000"});
  NbdClient client(served.path);
  ASSERT_TRUE(client.Go());
  for (int i = 0; i < 100; ++i) ASSERT_EQ(client.Do(0, kRead, 4096 * i, 4096), 0u);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const long before = served.CpuTicks();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_LE(served.CpuTicks() - before, 2) << "it spins although nobody asks for anything";
  EXPECT_EQ(client.Do(0, kRead, 0, 512), 0u);
  EXPECT_EQ(served.End(), 0);
}

TEST(ServeTest, WhatNewServersKnowCanBeRefused) {
  const std::string context = ClientOption(10, Big(4, 0) + Big(4, 1) + Big(4, 15) + "base:allocation");
  const std::string in = Big(4, 3) + ClientOption(8, "") + context + ClientOption(11, "");
  const std::string go = ClientOption(7, Big(4, 0) + Big(2, 0));
  // The types of the final replies to each option.
  const auto ask = [&](const std::vector<std::string>& options) {
    Served served(options);
    NbdClient client(served.path);
    client.Receive(18);
    client.Send(in);
    std::vector<char> refused;
    for (int finals = 0; finals < 3;) {
      const std::string header = client.Receive(20);
      if (header.size() < 20) break;
      client.Receive(static_cast<uint8_t>(header[19]));
      if (header.substr(12, 4) == Big(4, 4)) continue;  // META_CONTEXT, which goes before its ACK
      ++finals;
      if (header.substr(12, 4) == Big(4, 0x80000001)) refused.push_back(header[11]);
    }
    return refused;
  };
  EXPECT_EQ(ask({}), (std::vector<char>{}));
  EXPECT_EQ(ask({"--no-structured-replies"}), (std::vector<char>{8, 10, 11}));
  EXPECT_EQ(ask({"--no-meta-context"}), (std::vector<char>{10}));
  EXPECT_EQ(ask({"--no-extended-headers"}), (std::vector<char>{11}));
}

TEST(ServeTest, EveryClientSeesWhatAnotherWrote) {
  Served served;
  NbdClient one(served.path), two(served.path);
  ASSERT_TRUE(one.Go());
  ASSERT_TRUE(two.Go());
  std::string data = "seen", back;
  EXPECT_EQ(one.Do(0, kWrite, 0, 4, &data), 0u);
  EXPECT_EQ(two.Do(0, kFlush, 0, 0), 0u);
  EXPECT_EQ(two.Do(0, kRead, 0, 4, &back), 0u);
  EXPECT_EQ(back, data);
}

}  // namespace
}  // namespace buse
