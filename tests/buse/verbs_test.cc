// SPDX-License-Identifier: Apache-2.0
//
// format, check and describe: real programs over real files, and what a tired administrator types wrong.

#include "buse/verbs.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
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

const std::string kDisk = Runfile("tests/buse/formatted_disk");
const std::string kDescribe = Runfile("tools/describe");
constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kData = 4096;  // where the data begins in a file of formatted_disk

bool Says(const Result& result, const std::string& text) { return result.output.find(text) != std::string::npos; }

class VerbsTest : public ::testing::Test {
 protected:
  VerbsTest() {
    char name[] = "/tmp/buse-verbs.XXXXXX";
    folder_ = mkdtemp(name);
  }
  ~VerbsTest() override { RunToEnd({"rm", "-rf", folder_}); }

  std::string In(const std::string& name) const { return folder_ + "/" + name; }
  std::string Uri() const { return "nbd+unix:///?socket=" + In("s"); }
  // disk.img of a MiB.
  void Format() {
    const Result result = RunToEnd({kDisk, "format", disk_, "--create", "1M"});
    ASSERT_EQ(result.exit_code, 0) << result.output;
  }
  static void Put(const std::string& path, uint64_t offset, const std::string& bytes) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file << bytes;
    ASSERT_TRUE(file.good());
  }
  static std::string Content(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream content;
    content << file.rdbuf();
    return content.str();
  }
  void SetUp() override { disk_ = In("disk.img"); }

  std::string folder_;
  std::string disk_;
};

TEST_F(VerbsTest, FormatServeCheckDescribe) {
  Result result = RunToEnd({kDisk, "format", disk_, "--create", "1M"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output, disk_ + ": formatted: a disk of 1016 KiB\n");
  {
    Process server({kDisk, disk_, Uri()});
    ASSERT_TRUE(server.WaitFor("Ctrl-C")) << server.output();
    NbdClient client(In("s"));
    ASSERT_TRUE(client.Go());
    std::string data(512, 'x'), back;
    EXPECT_EQ(client.Do(0, 1, 4096, 512, &data), 0u);
    EXPECT_EQ(client.Do(0, 0, 4096, 512, &back), 0u);
    EXPECT_EQ(back, data);
    // Nothing is formatted or checked under it, and describing is still possible.
    EXPECT_EQ(RunToEnd({kDisk, "check", disk_}).exit_code, 4);
    EXPECT_EQ(RunToEnd({kDisk, "format", "--force", disk_}).exit_code, 4);
    EXPECT_EQ(RunToEnd({kDisk, "describe", disk_}).exit_code, 0);
    server.Signal(SIGTERM);
    EXPECT_EQ(server.Wait(), 0);
  }
  result = RunToEnd({kDisk, "check", disk_});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output, disk_ + ": 1016 KiB checked: all sound\n");
  EXPECT_EQ(Content(disk_)[kData + 4096], 'x');
}

TEST_F(VerbsTest, CheckListsDamageMergedAndExitsWithACodeOfItsOwn) {
  Format();
  Put(disk_, kData + 512, "\xbd");
  Put(disk_, kData + 4096, "\xbd");
  Put(disk_, kData + 4608, "\xbd");
  Put(disk_, kData + 5120, std::string("\0\xee", 2));
  Put(disk_, kMiB - 4096 + 100, "?");
  const Result result = RunToEnd({kDisk, "check", disk_});
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_TRUE(Says(result, "formatted: flaw: the copy of the superblock at offset 1044480 is damaged: its checksum is "))
      << result.output;
  EXPECT_TRUE(Says(result,
                   "formatted: damaged: offset 512, length 512: begins with 0xbd\n"
                   "formatted: damaged: offset 4096, length 1024: begins with 0xbd\n"
                   "formatted: flaw: block 10 is flawed\n" +
                       disk_ + ": 1016 KiB checked: 1536 bytes damaged in 2 ranges, 2 flaws besides\n"))
      << result.output;
}

TEST_F(VerbsTest, FlawsAloneAreDamageToo) {
  Format();
  Put(disk_, 100, "?");
  const Result result = RunToEnd({kDisk, "check", disk_});
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_TRUE(Says(result, "flaw: the superblock at offset 0 is damaged")) << result.output;
  EXPECT_TRUE(Says(result, "no data is damaged, 1 flaw besides")) << result.output;
}

TEST_F(VerbsTest, BothSuperblocksDamagedIsDamageWhoeverOpens) {
  Format();
  Put(disk_, 100, "?");
  Put(disk_, kMiB - 4096 + 100, "?");
  const std::vector<std::vector<std::string>> lines = {{kDisk, "check", disk_}, {kDisk, disk_, Uri()}};
  for (const std::vector<std::string>& line : lines) {
    const Result result = RunToEnd(line);
    EXPECT_EQ(result.exit_code, 5) << result.output;
    EXPECT_TRUE(Says(result, "the superblock is damaged (its checksum is ")) << result.output;
  }
  const Result result = RunToEnd({kDescribe, disk_});
  EXPECT_EQ(result.exit_code, 5) << result.output;
  EXPECT_TRUE(Says(result, "superblock at offset 0: damaged: its checksum is ")) << result.output;
}

TEST_F(VerbsTest, NothingIsDestroyedWithoutForce) {
  Format();
  const std::string ours = Content(disk_);
  std::ofstream(In("photos.tar")) << std::string(257, 'x') + "ustar" + std::string(20000, 'x');
  std::ofstream(In("notes")) << std::string(70000, 'n');
  std::ofstream(In("end")) << std::string(kMiB - 1, '\0') << "e";
  ASSERT_EQ(Shell("truncate -s 2M " + In("ext4") + " && mkfs.ext4 -q " + In("ext4")).exit_code, 0);
  ASSERT_EQ(Shell("truncate -s 2M " + In("swap") + " && chmod 600 " + In("swap") + " && mkswap " + In("swap")).exit_code, 0);
  const std::pair<std::string, std::string> rows[] = {
      {"disk.img", "holds a medium of formatted, 1016 KiB, UUID "},
      {"photos.tar", "holds a tar archive"},
      {"notes", "holds data of an unknown kind (at offset 0)"},
      {"end", "holds data of an unknown kind (at offset 1048575)"},
      {"ext4", "holds an ext2, ext3 or ext4 file system"},
      {"swap", "holds swap space"},
  };
  for (const auto& [name, says] : rows) {
    const std::string before = Content(In(name));
    const Result result = RunToEnd({kDisk, "format", In(name)});
    EXPECT_EQ(result.exit_code, 1) << result.output;
    EXPECT_TRUE(Says(result, In(name) + ": " + says)) << result.output;
    EXPECT_TRUE(Says(result, "with --force")) << result.output;
    EXPECT_TRUE(Content(In(name)) == before) << name;
    const Result served = RunToEnd({kDisk, In(name), Uri(), "--read-only", "--no-such"});
    EXPECT_EQ(served.exit_code, 2);
    EXPECT_TRUE(Content(In(name)) == before) << name;
  }
  for (const char* name : {"photos.tar", "notes", "end", "ext4", "swap"}) {
    const Result served = RunToEnd({kDisk, In(name), Uri()});
    EXPECT_EQ(served.exit_code, 1) << served.output;
    const Result forced = RunToEnd({kDisk, "format", In(name), "--force"});
    EXPECT_EQ(forced.exit_code, 0) << forced.output;
    EXPECT_EQ(RunToEnd({kDisk, "check", In(name)}).exit_code, 0) << name;
  }
  EXPECT_TRUE(Content(disk_) == ours);
}

TEST_F(VerbsTest, WhatIsTypedWrong) {
  Format();
  const std::string none = In("none.img"), other = In("other.img");
  std::ofstream(other) << std::string(65536, '\0');
  struct Row {
    std::vector<std::string> arguments;
    int exit_code;
    std::string says;
  };
  const Row rows[] = {
      {{"format"}, 2, "file: missing; usage: formatted_disk format [OPTION]... FILE"},
      {{"check"}, 2, "file: missing; usage: formatted_disk check [OPTION]... FILE"},
      {{"describe"}, 2, "path: missing; usage: formatted_disk describe [OPTION]... PATH"},
      {{"format", none}, 3, "there is no such file; --create SIZE creates one"},
      {{"check", none}, 3, "none.img: there is no such file"},
      {{"describe", none}, 3, "none.img: there is no such file"},
      {{"check", none, "--create", "1M"}, 2, "--create: only formatted_disk format takes it"},
      {{none, "--create", "1M"}, 2, "--create: only formatted_disk format takes it"},
      {{"--create", "1M", "format", none}, 2, "--create: only formatted_disk format takes it"},
      {{"check", disk_, "/dev/nbd0"}, 2, "\"/dev/nbd0\": one argument too many"},
      {{"format", disk_, Uri()}, 2, "one argument too many"},
      {{"format", none, "1M"}, 2, "\"1M\": one argument too many"},
      {{"describe", disk_, disk_}, 2, "one argument too many"},
      {{"check", disk_, "--force"}, 2, "--force: unknown option"},
      {{disk_, "--force"}, 2, "--force: unknown option"},
      {{disk_, "check"}, 2, "\"check\": a verb comes first, as in: formatted_disk check disk.img"},
      {{"-v", "check", disk_}, 2, "\"check\": a verb comes first"},
      {{"--", "format"}, 2, "\"format\": a verb comes first"},
      {{"chekc", disk_}, 2, "The verbs are format, check, describe"},
      {{"serve", disk_}, 2, "The verbs are format, check, describe"},
      {{"check", other}, 1, "formatted: the medium was never formatted: it begins with zeroes. Use `format` first"},
      {{other, Uri()}, 1, "formatted: the medium was never formatted"},
      {{"describe", other}, 1, "other.img: 64 KiB (65536 bytes)\n  nothing: it is empty"},
      {{"check", folder_}, 2, "is a directory"},
      {{"describe", folder_}, 2, "is neither a regular file nor a block device"},
      {{"describe", "/dev/null"}, 2, "is neither a regular file nor a block device"},
      {{"format", other, "--create", "1M"}, 2, "exists with 65536 bytes, but --create asks for 1048576"},
      {{"format", other, "--read-only"}, 2, "is read-only, so it cannot be formatted"},
      {{"format", other, "--slack", "1M"}, 2, "make it larger"},
      {{"format", "--disconnect", "/dev/nbd0"}, 2, "--disconnect: unknown option"},
  };
  const std::string ours = Content(disk_);
  for (const Row& row : rows) {
    std::vector<std::string> line = row.arguments;
    line.insert(line.begin(), kDisk);
    const Result result = RunToEnd(line);
    std::string typed;
    for (const std::string& argument : row.arguments) typed += argument + " ";
    EXPECT_EQ(result.exit_code, row.exit_code) << typed << "\n" << result.output;
    EXPECT_TRUE(Says(result, row.says)) << typed << "\n" << result.output;
    EXPECT_NE(access(none.c_str(), F_OK), 0) << typed << "created a file";
  }
  EXPECT_TRUE(Content(disk_) == ours);
  EXPECT_EQ(Content(other), std::string(65536, '\0')) << "nothing was written to it";
  // A file of a verb's name can still be named.
  ASSERT_EQ(rename(disk_.c_str(), In("check").c_str()), 0);
  EXPECT_EQ(RunToEnd({"env", "BUILD_WORKING_DIRECTORY=" + folder_, kDisk, "check", "check"}).exit_code, 0);
}

TEST_F(VerbsTest, HelpShowsTheVerbs) {
  Result help = RunToEnd({kDisk, "--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* part : {"Verbs, instead of serving:\n", "formatted_disk format disk.img ", "formatted_disk check disk.img ",
                           "formatted_disk describe disk.img ", "5  what the medium holds is damaged"}) {
    EXPECT_TRUE(Says(help, part)) << part << "\n" << help.output;
  }
  EXPECT_FALSE(Says(help, "--create")) << "which serving does not take:\n" << help.output;
  help = RunToEnd({kDisk, "format", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* part : {"Usage: formatted_disk format [OPTION]... FILE\n", "--create SIZE", "--slack SIZE", "--force"}) {
    EXPECT_TRUE(Says(help, part)) << part << "\n" << help.output;
  }
  EXPECT_FALSE(Says(help, "TARGET")) << help.output;
  help = RunToEnd({kDisk, "check", "-h"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_TRUE(Says(help, "Usage: formatted_disk check [OPTION]... FILE\n")) << help.output;
  EXPECT_FALSE(Says(help, "--force") || Says(help, "--create")) << help.output;
  for (const Result& describe : {RunToEnd({kDisk, "describe", "--help"}), RunToEnd({kDescribe, "--help"})}) {
    EXPECT_EQ(describe.exit_code, 0);
    EXPECT_TRUE(Says(describe, "describe [OPTION]... PATH\n")) << describe.output;
    EXPECT_FALSE(Says(describe, "The stack")) << describe.output;
  }
}

TEST_F(VerbsTest, DescribeSaysWhatLiesOnAMedium) {
  Format();
  for (const std::vector<std::string>& line :
       {std::vector<std::string>{kDisk, "describe", disk_}, std::vector<std::string>{kDescribe, disk_}}) {
    const Result result = RunToEnd(line);
    EXPECT_EQ(result.exit_code, 0);
    for (const std::string& part :
         {disk_ + ": 1 MiB (1048576 bytes)\n  a medium of the layer formatted, version 1 of its format\n  UUID ",
          std::string("  shows a device of 1016 KiB (1040384 bytes), in blocks of 512 bytes\n"
                      "  made for a medium of 1 MiB (1048576 bytes), and for the layers formatted(512)\n"
                      "  data 4096\n"
                      "  superblock at offset 0: sound\n"
                      "  its copy at offset 1044480: sound\n"
                      "  inside, from offset 4096 on:\n"
                      "    nothing: it is empty, as far as was looked\n")}) {
      EXPECT_TRUE(Says(result, part)) << part << "\n" << result.output;
    }
  }
  // A file system inside, and a copy that is lost.
  Put(disk_, kData + 1080, "\x53\xef");
  Put(disk_, kMiB - 4096, std::string(4096, '\0'));
  Result result = RunToEnd({kDescribe, disk_});
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_TRUE(Says(result, "    an ext2, ext3 or ext4 file system\n")) << result.output;
  EXPECT_TRUE(Says(result, "  its copy at offset 1044480: lost: it is no superblock\n")) << result.output;
  // What was cut off.
  ASSERT_EQ(truncate(disk_.c_str(), kMiB / 2), 0);
  result = RunToEnd({kDescribe, disk_});
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_TRUE(Says(result, "  the medium has 512 KiB (524288 bytes): it is too small\n")) << result.output;
  EXPECT_TRUE(Says(RunToEnd({kDisk, "check", disk_}), "it is too small"));
  // A medium within a medium.
  ASSERT_EQ(RunToEnd({kDisk, "format", In("inner"), "--create", "512K"}).exit_code, 0);
  ASSERT_EQ(RunToEnd({kDisk, "format", In("outer"), "--create", "520K"}).exit_code, 0);
  Put(In("outer"), kData, Content(In("inner")));
  result = RunToEnd({kDescribe, In("outer")});
  EXPECT_EQ(result.exit_code, 0) << result.output;
  EXPECT_TRUE(Says(result, "\n    a medium of the layer formatted, version 1 of its format\n    UUID ")) << result.output;
  EXPECT_TRUE(Says(result, "\n    inside, from offset 4096 on:\n      nothing")) << result.output;
  // Somebody else's.
  std::ofstream(In("qcow2")) << "QFI\xfb" << std::string(100000, '\0');
  result = RunToEnd({kDescribe, In("qcow2")});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_EQ(result.output, In("qcow2") + ": 97.6 KiB (100004 bytes)\n  a qcow2 image\n");
  std::ofstream(In("small")) << "hello";
  EXPECT_EQ(RunToEnd({kDescribe, In("small")}).output,
            In("small") + ": 5 bytes\n  nothing of ours, for which it is too small\n");
  std::ofstream(In("empty"));
  EXPECT_EQ(RunToEnd({kDescribe, In("empty")}).output,
            In("empty") + ": 0 bytes\n  nothing: it is empty, as far as was looked\n");
}

TEST_F(VerbsTest, ProgressIsALineForEveryTenthUnlessOnATerminal) {
  Format();
  // 2032 blocks of 1 ms and what a sleep adds.
  const Result plain = RunToEnd({kDisk, "check", disk_, "--read-delay", "1000"});
  EXPECT_EQ(plain.exit_code, 0);
  EXPECT_TRUE(Says(plain, "formatted_disk: checking formatted: 90 % of 1016 KiB\n")) << plain.output;
  EXPECT_EQ(plain.output.find('\r'), std::string::npos);
  // script gives it a terminal.
  const Result drawn = Shell("script -qec '" + kDisk + " check " + disk_ + " --read-delay 1000' /dev/null </dev/null");
  EXPECT_EQ(drawn.exit_code, 0) << drawn.output;
  EXPECT_TRUE(Says(drawn, "\rformatted_disk: checking formatted: ")) << drawn.output;
  EXPECT_TRUE(Says(drawn, "\r\x1b[K" + disk_ + ": 1016 KiB checked: all sound")) << drawn.output;
}

TEST_F(VerbsTest, AnInterruptedCheckHarmsNothing) {
  Format();
  const std::string before = Content(disk_);
  Process check({kDisk, "check", disk_, "--read-delay", "5000"});
  ASSERT_TRUE(check.WaitFor("% of 1016 KiB")) << check.output();
  check.Signal(SIGINT);
  EXPECT_EQ(check.Wait(), 128 + SIGINT);
  EXPECT_TRUE(Content(disk_) == before);
}

TEST_F(VerbsTest, AClosedOutputDoesNotLandInTheDisk) {
  Format();
  const std::string before = Content(disk_);
  for (const char* closed : {">&-", "2>&-", "<&- >&- 2>&-", "| true"}) {
    Shell(kDisk + " check " + disk_ + " " + closed);
    EXPECT_TRUE(Content(disk_) == before) << closed;
  }
}

// ---- The parts.

TEST(ProgressLineTest, QuietInTheFirstSecondThenEveryTenth) {
  char* text = nullptr;
  size_t length = 0;
  std::FILE* out = open_memstream(&text, &length);
  std::chrono::steady_clock::time_point now;
  {
    ProgressLine progress(out, false, [&] { return now; });
    progress.Begin("x");
    progress.Update(50, 100);
    now += std::chrono::seconds(1);
    for (uint64_t done = 51; done <= 100; ++done) progress.Update(done, 100);
    progress.Update(0, 0);
    progress.Begin("y");
    now += std::chrono::seconds(1);
    progress.Update(UINT64_MAX, UINT64_MAX);
  }
  std::fclose(out);
  EXPECT_EQ(std::string(text, length),
            "x: 51 % of 100 bytes\nx: 60 % of 100 bytes\nx: 70 % of 100 bytes\nx: 80 % of 100 bytes\nx: 90 % of 100 bytes\n"
            "x: 100 % of 100 bytes\ny: 100 % of 15.9 EiB\n");
  std::free(text);
}

TEST(ProgressLineTest, OnATerminalOneLineIsDrawnAgainAndRemoved) {
  char* text = nullptr;
  size_t length = 0;
  std::FILE* out = open_memstream(&text, &length);
  std::chrono::steady_clock::time_point now;
  {
    ProgressLine progress(out, true, [&] { return now; });
    progress.Begin("x");
    now += std::chrono::seconds(1);
    for (uint64_t done = 0; done < 100; done += 10) {
      progress.Update(done, 100);
      now += std::chrono::milliseconds(50);
    }
  }
  std::fclose(out);
  EXPECT_EQ(std::string(text, length),
            "\rx: 0 % of 100 bytes\x1b[K\rx: 40 % of 100 bytes\x1b[K\rx: 80 % of 100 bytes\x1b[K\r\x1b[K");
  std::free(text);
}

}  // namespace
}  // namespace buse
