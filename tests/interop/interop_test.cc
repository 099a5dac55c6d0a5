// SPDX-License-Identifier: Apache-2.0
//
// The clients that people use, against our servers.

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/process.h"

namespace buse {
namespace {

using testing::Process;
using testing::Result;
using testing::Runfile;
using testing::RunToEnd;
using testing::Shell;

class InteropTest : public ::testing::Test {
 protected:
  InteropTest() {
    char name[] = "/tmp/buse-interop.XXXXXX";
    folder_ = mkdtemp(name);
    socket_ = folder_ + "/s";
    uri_ = "nbd+unix:///?socket=" + socket_;
  }
  ~InteropTest() override {
    server_.reset();
    RunToEnd({"rm", "-rf", folder_});
  }

  void Serve(std::vector<std::string> arguments) {
    arguments[0] = Runfile("examples/" + arguments[0]);
    server_ = std::make_unique<Process>(arguments);
    ASSERT_TRUE(server_->WaitFor("Ctrl-C")) << server_->output();
  }
  void EndServer() {
    server_->Signal(SIGTERM);
    EXPECT_EQ(server_->Wait(), 0) << server_->output();
  }
  // Runs a line of shell in the folder, in which $URI and $SOCKET name the server. It must succeed.
  std::string Do(const std::string& line) {
    const Result result = Shell("set -e; cd " + folder_ + "; URI='" + uri_ + "' SOCKET='" + socket_ + "'; " + line);
    EXPECT_EQ(result.exit_code, 0) << line << "\n" << result.output << "\n(a missing program: run tools/setup)";
    return result.output;
  }
  static void ExpectSays(const std::string& output, const std::string& part) {
    EXPECT_NE(output.find(part), std::string::npos) << part << "\nis not in\n" << output;
  }

  std::string folder_, socket_, uri_;
  std::unique_ptr<Process> server_;
};

TEST_F(InteropTest, NbdinfoTellsWhatTheTypeSays) {
  Serve({"memdisk", "128M", uri_});
  const std::string info = Do("nbdinfo \"$URI\"");
  for (const char* part : {"newstyle-fixed", "export-size: 134217728 (128M)", "is_read_only: false", "can_flush: true",
                           "can_fua: true", "can_multi_conn: true", "can_trim: true", "can_zero: true", "block_size_minimum: 1",
                           "block_size_preferred: 4096", "block_size_maximum: 33554432", "128 MiB served by memdisk"}) {
    ExpectSays(info, part);
  }
  ExpectSays(Do("nbdinfo --list \"$URI\""), "export-size: 134217728");
}

TEST_F(InteropTest, NamesAndTcp) {
  // A free port, which the server tells.
  Serve({"memdisk", "1M", "nbd://127.0.0.1:0/disk"});
  const std::string& said = server_->output();
  const size_t begin = said.find("nbd://");
  const std::string uri = said.substr(begin, said.find('\n') - begin);
  EXPECT_EQ(Do("nbdinfo --size '" + uri + "'"), "1048576\n");
  const std::string other = uri.substr(0, uri.rfind('/')) + "/none";
  EXPECT_NE(Shell("nbdinfo --size '" + other + "'").exit_code, 0);
  const std::string port = uri.substr(uri.rfind(':') + 1, uri.rfind('/') - uri.rfind(':') - 1);
  ExpectSays(Do("nbd-client -l 127.0.0.1 -p " + port), "disk");
  EndServer();
}

TEST_F(InteropTest, Ipv6) {
  if (access("/proc/net/if_inet6", F_OK) != 0) GTEST_SKIP() << "this kernel has no IPv6";
  Serve({"memdisk", "1M", "nbd://[::1]:0/"});
  const std::string& said = server_->output();
  const size_t begin = said.find("nbd://");
  EXPECT_EQ(Do("nbdinfo --size '" + said.substr(begin, said.find('\n') - begin) + "'"), "1048576\n");
}

TEST_F(InteropTest, NbdClientListsOnAUnixSocket) {
  Serve({"memdisk", "1M", "nbd+unix:///disk?socket=" + socket_});
  ExpectSays(Do("nbd-client -l -unix \"$SOCKET\""), "disk");
}

TEST_F(InteropTest, NbdcopyOfAGigabyteInAndOutComparesEqual) {
  Serve({"memdisk", "1G", uri_});
  Do("head -c 1G /dev/urandom > in; nbdcopy in \"$URI\"; nbdcopy \"$URI\" out; cmp in out");
  EndServer();
}

TEST_F(InteropTest, NbdcopyBetweenAFileServerAndAnImage) {
  Serve({"loopback", folder_ + "/disk", "--create", "256M", uri_});
  Do("head -c 256M /dev/urandom > in; nbdcopy --flush in \"$URI\"; cmp in disk; nbdcopy \"$URI\" out; cmp in out");
  EndServer();
}

TEST_F(InteropTest, FioVerifiesFourConnectionsAtDepth32) {
  const std::string fio =
      "fio --name=verify --ioengine=nbd --uri=\"$URI\" --rw=randrw --rwmixread=30 --bsrange=512-64k --iodepth=32 --numjobs=4 "
      "--size=64M --offset_increment=64M --verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=64 --randseed=7 "
      "--group_reporting";
  Serve({"memdisk", "256M", uri_});
  ExpectSays(Do(fio), "err= 0");
  EndServer();
  server_.reset();
  Serve({"loopback", folder_ + "/disk", "--create", "256M", uri_});
  ExpectSays(Do(fio), "err= 0");
  EndServer();
}

TEST_F(InteropTest, QemuImgConvertsAndCompares) {
  Serve({"memdisk", "64M", uri_});
  Do("head -c 64M /dev/urandom > in; qemu-img convert -n -f raw -O raw in \"$URI\"; qemu-img compare -f raw -F raw in "
     "\"$URI\"");
  ExpectSays(Do("qemu-img info \"$URI\""), "64 MiB");
  Do("qemu-img convert -f raw -O qcow2 \"$URI\" out.qcow2; qemu-img compare -f raw -F qcow2 in out.qcow2");
}

TEST_F(InteropTest, QemuIoWritesZeroesDiscardsAndFlushes) {
  Serve({"memdisk", "16M", uri_});
  const std::string output = Do(
      "qemu-io -f raw -c 'write -P 7 0 1M' -c 'read -P 7 0 1M' -c 'write -f -P 8 64k 64k' -c 'write -z 256k 64k' "
      "-c 'read -P 0 256k 64k' -c 'write -z -u 512k 64k' -c 'read -P 0 512k 64k' -c 'discard 128k 64k' -c 'read -P 0 128k 64k' "
      "-c 'read -P 8 64k 64k' -c 'read -P 7 0 64k' -c flush -c 'write -P 9 16776704 512' -c 'read -P 9 16776704 512' \"$URI\"");
  EXPECT_EQ(output.find("failed"), std::string::npos) << output;
  EndServer();
}

TEST_F(InteropTest, QemuNbdClientSeesAReadOnlyFile) {
  Do("head -c 1M /dev/urandom > disk");
  Serve({"loopback", "--read-only", folder_ + "/disk", uri_});
  ExpectSays(Do("nbdinfo \"$URI\""), "is_read_only: true");
  Do("nbdcopy \"$URI\" out; cmp disk out");
  EXPECT_NE(Shell("qemu-io -f raw -c 'write 0 512' '" + uri_ + "'").exit_code, 0);
}

}  // namespace
}  // namespace buse
