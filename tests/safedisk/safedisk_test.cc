// SPDX-License-Identifier: Apache-2.0
//
// The program of examples/safedisk.cc as an administrator uses it: format, serve, check, and what happens when the file is
// damaged behind its back.

#include <signal.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/console.h"
#include "tests/nbd_client.h"
#include "tests/process.h"

namespace buse {
namespace {

using testing::NbdClient;
using testing::Process;
using testing::Result;
using testing::Runfile;
using testing::RunToEnd;
using testing::Shell;

const std::string kSafedisk = Runfile("examples/safedisk");
constexpr uint64_t kBlock = 512;
constexpr uint32_t kEio = 5;

struct Damage {
  uint64_t offset;
  uint64_t length;
  friend bool operator==(const Damage&, const Damage&) = default;
  friend void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.offset << "+" << damage.length; }
};

// What `check` says.
struct Checked {
  int exit_code;
  std::vector<Damage> damage;
  int flaws = 0;
  std::string output;
};

class SafediskTest : public ::testing::Test {
 protected:
  SafediskTest() {
    char name[] = "/tmp/buse-safedisk.XXXXXX";
    folder_ = mkdtemp(name);
    disk_ = folder_ + "/disk.img";
    socket_ = folder_ + "/s";
    uri_ = "nbd+unix:///?socket=" + socket_;
  }
  ~SafediskTest() override {
    server_.reset();
    RunToEnd({"rm", "-rf", folder_});
  }

  void Format(const std::string& size) {
    const Result result = RunToEnd({kSafedisk, "format", disk_, "--create", size});
    ASSERT_EQ(result.exit_code, 0) << result.output;
  }
  void Serve() {
    server_ = std::make_unique<Process>(std::vector<std::string>{kSafedisk, disk_, uri_});
    ASSERT_TRUE(server_->WaitFor("Ctrl-C")) << server_->output();
  }
  void End() {
    server_->Signal(SIGTERM);
    EXPECT_EQ(server_->Wait(), 0) << server_->output();
  }
  // Runs a line of shell in the folder, in which $URI names the server. It must succeed.
  std::string Do(const std::string& line) {
    const Result result = Shell("set -e; cd " + folder_ + "; URI='" + uri_ + "'; " + line);
    EXPECT_EQ(result.exit_code, 0) << line << "\n" << result.output << "\n(a missing program: run tools/setup)";
    return result.output;
  }
  Checked Check() {
    const Result result = RunToEnd({kSafedisk, "check", disk_});
    Checked checked = {.exit_code = result.exit_code, .damage = {}, .output = result.output};
    std::istringstream lines(result.output);
    for (std::string line; std::getline(lines, line);) {
      unsigned long long offset = 0, length = 0;
      if (std::sscanf(line.c_str(), "checksum: damaged: offset %llu, length %llu: ", &offset, &length) == 2) {
        checked.damage.push_back({offset, length});
      }
      checked.flaws += line.rfind("checksum: flaw: ", 0) == 0;
    }
    return checked;
  }
  // A field of the superblock, as `describe` shows it.
  uint64_t Field(const std::string& name) {
    const Result result = RunToEnd({kSafedisk, "describe", disk_});
    const size_t at = result.output.find("\n  " + name + " ");
    EXPECT_NE(at, std::string::npos) << name << " is not in\n" << result.output;
    return at == std::string::npos ? 0 : std::strtoull(result.output.c_str() + at + 3 + name.size(), nullptr, 10);
  }
  // Changes one byte of the file.
  void Scribble(uint64_t offset) {
    std::fstream file(disk_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const int byte = file.get();
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 0x40));
    ASSERT_TRUE(file.good());
  }
  // A disk full of random bytes, which are also in the file `in`; stopped.
  void FormatAndFill(const std::string& size) {
    Format(size);
    Serve();
    Do("head -c $(nbdinfo --size \"$URI\") /dev/urandom > in; nbdcopy --flush in \"$URI\"");
    End();
    std::ifstream in(folder_ + "/in", std::ios::binary);
    std::stringstream content;
    content << in.rdbuf();
    in_ = content.str();
  }
  // Reads the disk that is served block by block: those at the offsets given fail with EIO, all others are right.
  void ExpectJustTheseFail(const std::set<uint64_t>& blocks) {
    NbdClient client(socket_);
    ASSERT_TRUE(client.Go());
    ASSERT_EQ(client.size, in_.size());
    for (uint64_t at = 0; at < client.size; at += kBlock) {
      std::string data;
      const uint32_t error = client.Do(0, 0, at, kBlock, &data);
      ASSERT_EQ(error, blocks.count(at) == 0 ? 0 : kEio) << "at " << at;
      ASSERT_TRUE(error != 0 || data == in_.substr(at, kBlock)) << "wrong bytes at " << at;
    }
  }

  std::string folder_, disk_, socket_, uri_;
  std::string in_;
  std::unique_ptr<Process> server_;
};

TEST_F(SafediskTest, WhatIsWrittenIsThereAndChecksSound) {
  Format("300M");
  Serve();
  const std::string fio = Do(
      "fio --name=verify --ioengine=nbd --uri=\"$URI\" --rw=randrw --rwmixread=30 --bsrange=512-64k --iodepth=32 --numjobs=4 "
      "--size=64M --offset_increment=64M --verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=64 --randseed=7 "
      "--group_reporting");
  EXPECT_NE(fio.find("err= 0"), std::string::npos) << fio;
  Do("head -c $(nbdinfo --size \"$URI\") /dev/urandom > in; nbdcopy --flush in \"$URI\"; nbdcopy \"$URI\" out; cmp in out");
  End();
  const Checked checked = Check();
  EXPECT_EQ(checked.exit_code, 0) << checked.output;
  EXPECT_NE(checked.output.find("all sound"), std::string::npos) << checked.output;
  Serve();
  Do("nbdcopy \"$URI\" out; cmp in out");
  End();
}

TEST_F(SafediskTest, AKilledServerLeavesASoundDisk) {
  Format("64M");
  for (int round = 0; round < 3; ++round) {
    Serve();
    Process writer({"fio", "--name=w", "--ioengine=nbd", "--uri=" + uri_, "--rw=randwrite", "--bsrange=512-64k", "--iodepth=16",
                    "--size=48M", "--time_based", "--runtime=60", "--fsync=20", "--randseed=" + std::to_string(round)});
    usleep(700000 + 300000 * round);
    server_->Signal(SIGKILL);
    EXPECT_EQ(server_->Wait(), 128 + SIGKILL);
    EXPECT_NE(writer.Wait(), 0);
    const Checked checked = Check();
    EXPECT_EQ(checked.exit_code, 0) << checked.output;
  }
}

TEST_F(SafediskTest, ScribbledBytesAreErrorsOnJustTheirBlocks) {
  FormatAndFill("24M");
  const uint64_t data = Field("data"), size = in_.size();
  // The first and the last byte of the disk, two blocks of one page, neighbours, and one in the middle of nowhere.
  for (uint64_t at : {uint64_t{0}, 8192 + 5 * kBlock, 8192 + 7 * kBlock + 511, 100000 * kBlock / 4,
                      100000 * kBlock / 4 + kBlock, size / 2 / kBlock * kBlock + 77, size - 1}) {
    Scribble(data + at);
  }
  const uint64_t middle = size / 2 / kBlock * kBlock, pair = 100000 * kBlock / 4;
  std::set<uint64_t> blocks = {0, 8192 + 5 * kBlock, 8192 + 7 * kBlock, pair, pair + kBlock, middle, size - kBlock};
  std::set<std::pair<uint64_t, uint64_t>> wanted = {{0, kBlock},      {8192 + 5 * kBlock, kBlock}, {8192 + 7 * kBlock, kBlock},
                                                    {middle, kBlock}, {pair, 2 * kBlock},          {size - kBlock, kBlock}};
  std::vector<Damage> damage;
  for (const auto& [offset, length] : wanted) damage.push_back({offset, length});
  Checked checked = Check();
  EXPECT_EQ(checked.exit_code, 5) << checked.output;
  EXPECT_EQ(checked.damage, damage) << checked.output;
  EXPECT_EQ(checked.flaws, 0) << checked.output;

  Serve();
  ExpectJustTheseFail(blocks);
  const Result qemu = Shell("qemu-io -r -f raw -c 'read 8192 4096' '" + uri_ + "'");
  EXPECT_NE(qemu.output.find("Input/output error"), std::string::npos) << qemu.output;
  EXPECT_NE(Shell("nbdcopy '" + uri_ + "' /dev/null").exit_code, 0);
  EXPECT_TRUE(server_->WaitFor("read 0+512 failed: ")) << server_->output();
  // Writing a damaged block makes it good again.
  {
    NbdClient client(socket_);
    ASSERT_TRUE(client.Go());
    std::string bytes = in_.substr(middle, kBlock);
    EXPECT_EQ(client.Do(0, 1, middle, kBlock, &bytes), 0u);
  }
  blocks.erase(middle);
  ExpectJustTheseFail(blocks);
  End();
  damage.clear();
  wanted.erase({middle, kBlock});
  for (const auto& [offset, length] : wanted) damage.push_back({offset, length});
  checked = Check();
  EXPECT_EQ(checked.exit_code, 5);
  EXPECT_EQ(checked.damage, damage) << checked.output;
}

TEST_F(SafediskTest, ASuperblockOrItsCopyMayBeDamaged) {
  FormatAndFill("8M");
  for (const uint64_t at : {uint64_t{3}, uint64_t{200}, uint64_t{4000}, (8 << 20) - uint64_t{4096}, (8 << 20) - uint64_t{1}}) {
    Scribble(at);
    const Checked checked = Check();
    EXPECT_EQ(checked.exit_code, 5) << at << "\n" << checked.output;
    EXPECT_TRUE(checked.damage.empty()) << at << "\n" << checked.output;
    EXPECT_EQ(checked.flaws, 1) << at << "\n" << checked.output;
    EXPECT_EQ(RunToEnd({kSafedisk, "describe", disk_}).exit_code, 5) << at;
    Serve();
    ExpectJustTheseFail({});
    End();
    Scribble(at);
  }
  EXPECT_EQ(Check().exit_code, 0);
  // Both.
  Scribble(200);
  Scribble((8 << 20) - 1);
  EXPECT_EQ(Check().exit_code, 5);
  EXPECT_EQ(RunToEnd({kSafedisk, disk_, uri_}).exit_code, 5);
}

TEST_F(SafediskTest, ADamagedSumIsTheDamageOfItsBlock) {
  FormatAndFill("24M");
  // Opening moves what the log says into the table.
  Serve();
  End();
  const uint64_t table = Field("table");
  Scribble(table);
  Scribble(table + 4 * 4099 + 3);
  const Checked checked = Check();
  EXPECT_EQ(checked.exit_code, 5) << checked.output;
  EXPECT_EQ(checked.damage, (std::vector<Damage>{{0, kBlock}, {4099 * kBlock, kBlock}})) << checked.output;
  Serve();
  ExpectJustTheseFail({0, 4099 * kBlock});
  End();
}

TEST_F(SafediskTest, DamageOfTheHeadsAndTheLogLosesNothingThatWasFlushed) {
  FormatAndFill("24M");
  const uint64_t log = Field("log"), slots = Field("log-slots");
  for (const std::vector<uint64_t>& places :
       {std::vector<uint64_t>{Field("head")}, {Field("head-copy") + 20}, {log, log + 4096 + 100, log + (slots - 1) * 4096}}) {
    for (uint64_t at : places) Scribble(at);
    Serve();
    ExpectJustTheseFail({});
    End();
    const Checked checked = Check();
    EXPECT_TRUE(checked.damage.empty()) << checked.output;
  }
}

TEST_F(SafediskTest, WhatIsNotItsMediumIsRefusedByName) {
  const std::string ext4 = folder_ + "/ext4";
  ASSERT_EQ(Shell("truncate -s 16M " + ext4 + " && mkfs.ext4 -q " + ext4).exit_code, 0);
  Result result = RunToEnd({kSafedisk, ext4, uri_});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.output.find("checksum: the medium holds an ext2, ext3 or ext4 file system and no superblock"),
            std::string::npos)
      << result.output;
  result = RunToEnd({kSafedisk, "format", ext4});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(Shell("e2fsck -fn " + ext4).exit_code, 0);
  // What only a new medium can be given.
  result = RunToEnd({kSafedisk, disk_, "--log", "2M", uri_});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_NE(result.output.find("--log: only safedisk format takes it"), std::string::npos) << result.output;
  // A disk that lost its end.
  Format("16M");
  ASSERT_EQ(truncate(disk_.c_str(), 15 << 20), 0);
  result = RunToEnd({kSafedisk, "check", disk_});
  EXPECT_EQ(result.exit_code, 1) << result.output;
  EXPECT_NE(result.output.find("has 15728640 bytes, but had 16777216 when it was formatted"), std::string::npos)
      << result.output;
}

// The shell sessions of README.md, typed in one shell, say what is printed there.
TEST_F(SafediskTest, TheReadmeTellsTheTruth) {
  const testing::Session session = testing::SessionOf("README.md", "tests/safedisk");
  ASSERT_GE(session.size(), 10u);
  testing::ExpectSession(session, folder_, kSafedisk.substr(0, kSafedisk.rfind('/')));
}

}  // namespace
}  // namespace buse
