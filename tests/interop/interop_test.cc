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
                           "can_fua: true", "can_multi_conn: true", "can_trim: true", "can_zero: true", "can_df: true",
                           "can_fast_zero: true", "using structured packets", "base:allocation", "block_size_minimum: 1",
                           "block_size_preferred: 4096", "block_size_maximum: 33554432", "128 MiB served by memdisk"}) {
    ExpectSays(info, part);
  }
  ExpectSays(Do("nbdinfo --list \"$URI\""), "export-size: 134217728");
}

TEST_F(InteropTest, NbdinfoSeesWhatIsRefused) {
  const auto can = [&](const char* what) {
    return Shell(std::string("nbdinfo --can ") + what + " '" + uri_ + "'").exit_code == 0;
  };
  Serve({"memdisk", "1M", uri_, "--no-structured-replies", "--max-request", "1M"});
  EXPECT_FALSE(can("structured-reply"));
  EXPECT_FALSE(can("df"));
  const std::string info = Do("nbdinfo \"$URI\"");
  ExpectSays(info, "block_size_maximum: 1048576");
  EXPECT_EQ(info.find("base:allocation"), std::string::npos);
  Do("head -c 1M /dev/urandom > in; nbdcopy in \"$URI\"; nbdcopy \"$URI\" out; cmp in out");
  EndServer();
  server_.reset();
  Serve({"memdisk", "1M", uri_, "--no-meta-context"});
  EXPECT_TRUE(can("structured-reply"));
  EXPECT_TRUE(can("df"));
  EXPECT_EQ(Do("nbdinfo \"$URI\"").find("base:allocation"), std::string::npos);
  EndServer();
}

TEST_F(InteropTest, MapsTellHolesAndData) {
  Serve({"memdisk", "64M", uri_});
  Do("qemu-io -f raw -c 'write -P 7 1M 128k' -c 'write -P 1 5000000 100' \"$URI\"");
  const std::string map = Do("nbdinfo --map \"$URI\"");
  for (const char* line :
       {"         0     1048576    3  hole,zero", "   1048576      131072    0  data", "   1179648     3817472    3  hole,zero",
        "   4997120        4096    0  data", "   5001216    62107648    3  hole,zero"}) {
    ExpectSays(map, line);
  }
  ExpectSays(Do("nbdinfo --map --totals \"$URI\""), "66973696  99.8%   3 hole,zero");
  const std::string by_qemu = Do("qemu-img map -f raw --output=json \"$URI\"");
  ExpectSays(by_qemu,
             "\"start\": 1048576, \"length\": 131072, \"depth\": 0, \"present\": true, \"zero\": false, \"data\": true");
  ExpectSays(by_qemu, "\"start\": 5001216, \"length\": 62107648, \"depth\": 0, \"present\": true, \"zero\": true");
  EndServer();
}

TEST_F(InteropTest, NbdcopyKeepsHolesBothWays) {
  Do("truncate -s 256M in; for at in 0 3 100 255; do head -c 100000 /dev/urandom | dd of=in bs=1M seek=$at conv=notrunc "
     "status=none; done");
  for (const char* copy : {"nbdcopy", "nbdcopy --requests=4 --connections=1", "nbdcopy --no-extents"}) {
    Serve({"loopback", folder_ + "/disk", "--create", "256M", uri_});
    Do(std::string(copy) + " in \"$URI\"; cmp in disk; test $(du -k disk | cut -f1) -lt 8192");
    Do(std::string("rm -f out; ") + copy + " \"$URI\" out; cmp in out; test $(du -k out | cut -f1) -lt 8192");
    EndServer();
    server_.reset();
    Do("rm disk");
  }
  // Through qemu, which reads holes as holes.
  Serve({"memdisk", "256M", uri_});
  Do("qemu-img convert -n -f raw -O raw in \"$URI\"; qemu-img convert -f raw -O raw \"$URI\" out2; cmp in out2");
  ExpectSays(Do("nbdinfo --map --totals \"$URI\""), "hole,zero");
  EndServer();
}

// libnbd from Python, whose interpreter must be the system's.
TEST_F(InteropTest, NbdshReadsInChunks) {
  Do("head -c 1M /dev/urandom > disk; truncate -s 4M disk; head -c 1M /dev/urandom >> disk");
  Serve({"loopback", folder_ + "/disk", uri_});
  const std::string output = Do(R"(/usr/bin/python3 - "$URI" <<'EOF'
import nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
h.set_strict_mode(0)
disk = open("disk", "rb").read()

def read(offset, length, flags=0):
    chunks, errors = [], []
    def chunk(data, at, status, error):
        chunks.append((at - offset, len(data), status))
        assert status == nbd.READ_HOLE or bytes(data) == disk[at:at + len(data)]
    try:
        got = h.pread_structured(length, offset, chunk, flags)
        assert bytes(got) == disk[offset:offset + length]
    except nbd.Error as e:
        errors.append(e.errno)
    return chunks, errors

chunks, errors = read(0, 5 << 20)
assert not errors and [c[2] for c in chunks] == [nbd.READ_DATA, nbd.READ_HOLE, nbd.READ_DATA], chunks
chunks, errors = read(0, 5 << 20, nbd.CMD_FLAG_DF)
assert not errors and [c[2] for c in chunks] == [nbd.READ_DATA], chunks
chunks, errors = read((5 << 20) - 512, 1024)
assert errors == ["EINVAL"], errors
extents = []
h.block_status(5 << 20, 0, lambda context, offset, entries, error: extents.extend(entries))
assert extents == [1 << 20, 0, 3 << 20, 3, 1 << 20, 0], extents
extents.clear()
h.block_status(4 << 20, 1 << 20, lambda context, offset, entries, error: extents.extend(entries), nbd.CMD_FLAG_REQ_ONE)
assert extents == [3 << 20, 3], extents
h.zero(1 << 20, 0, nbd.CMD_FLAG_FAST_ZERO)
assert bytes(h.pread(1 << 20, 0)) == bytes(1 << 20)
open("disk", "r+b").truncate(4096)
chunks, errors = read(8192, 512)
assert errors == ["EIO"], errors
print("all as it should be")
EOF)");
  ExpectSays(output, "all as it should be");
  EndServer();
}

// buse:cache over a disk that holds writes in memory, by nbdinfo.
TEST_F(InteropTest, NbdinfoMapsWhatACacheHolds) {
  Do(Runfile("examples/safedisk") + " format disk --create 64M");
  Serve({"safedisk", folder_ + "/disk", uri_});
  ExpectSays(Do("nbdinfo \"$URI\""), "buse:cache");
  ExpectSays(Do("nbdinfo --map=buse:cache --totals \"$URI\""), "100.0%   0");
  // A client that does not flush, and is cut off.
  Do("qemu-io -f raw -t writeback -c 'write -P 7 1M 128k' -c 'abort' \"$URI\" || true");
  const std::string map = Do("nbdinfo --map=buse:cache \"$URI\"");
  for (const char* line : {"   1048576      131072    3", "   1179648    61227008    0"}) ExpectSays(map, line);
  Do("qemu-io -f raw -c 'flush' \"$URI\"");
  ExpectSays(Do("nbdinfo --map=buse:cache \"$URI\""), "   1048576      131072    1");
  EndServer();
  server_.reset();
  Serve({"loopback", folder_ + "/disk", uri_});
  EXPECT_EQ(Do("nbdinfo \"$URI\"").find("buse:cache"), std::string::npos) << "a stack without a cache says nothing of one";
  EXPECT_NE(Shell("nbdinfo --map=buse:cache '" + uri_ + "'").exit_code, 0);
  EndServer();
}

TEST_F(InteropTest, NbdshSeesTwoContextsAtOnce) {
  Do(Runfile("examples/safedisk") + " format disk --create 16M");
  Serve({"safedisk", folder_ + "/disk", uri_});
  const std::string output = Do(R"(/usr/bin/python3 - "$URI" <<'EOF'
import nbd, sys

def connect(*contexts):
    h = nbd.NBD()
    for context in contexts:
        h.add_meta_context(context)
    h.connect_uri(sys.argv[1])
    return h

def status(h, length, offset, flags=0):
    told = {}
    def extents(context, at, entries, error):
        assert at == offset and context not in told, context
        told[context] = list(zip(entries[::2], entries[1::2]))
    h.block_status(length, offset, extents, flags)
    return told

h = nbd.NBD()
h.set_opt_mode(True)
h.connect_uri(sys.argv[1])
listed = []
for query in ["buse:", "buse:cache", "buse:none", "none:"]:
    h.clear_meta_contexts()
    h.add_meta_context(query)
    h.opt_list_meta_context(lambda name: listed.append((query, name)))
assert listed == [("buse:", "buse:cache"), ("buse:cache", "buse:cache")], listed
h.opt_abort()

h = connect("base:allocation", "buse:cache")
assert h.can_meta_context("buse:cache")
both = h.can_meta_context("base:allocation")
h.pwrite(b"a" * 8192, 4096)
h.pwrite(b"b" * 512, 1 << 20)
told = status(h, 2 << 20, 0)
assert told["buse:cache"] == [(4096, 0), (8192, 3), ((1 << 20) - 12288, 0), (512, 3), ((1 << 20) - 512, 0)], told
assert ("base:allocation" in told) == both, told
assert status(h, 8192, 8192, nbd.CMD_FLAG_REQ_ONE)["buse:cache"] == [(4096, 3)]
h.flush()
assert status(h, 12288, 0)["buse:cache"] == [(4096, 0), (8192, 1)]
h.pwrite(b"c" * 4096, 4096, nbd.CMD_FLAG_FUA)
assert status(h, 12288, 0)["buse:cache"] == [(4096, 0), (8192, 1)], "durable, so clean"
h.pread(4096, 8 << 20)
assert status(h, 4096, 8 << 20)["buse:cache"] == [(4096, 1)]
one = connect("buse:cache")
assert list(status(one, 12288, 0)) == ["buse:cache"]
none = connect()
assert not none.can_meta_context("buse:cache")
print("all as it should be")
EOF)");
  ExpectSays(output, "all as it should be");
  EndServer();
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
