// SPDX-License-Identifier: Apache-2.0
//
// Partition: finds what sfdisk and fdisk made; every damaged byte of a GPT is noticed; hostile tables end in an error after
// bounded reading, whatever they say; operations arrive translated and touch nothing outside.

#include "layers/partition.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/gather.h"
#include "gtest/gtest.h"
#include "layers/file_backed.h"
#include "layers/partition_table.h"
#include "tests/every_operation.h"
#include "tests/fail_nth.h"
#include "tests/leaves.h"
#include "tests/process.h"

template struct buse::Partition<buse::testing::Full>;

namespace buse::testing {
namespace {

constexpr Capabilities kEverythingButResize = {true, true, true, true, true, true, true, true, false, true, true, true};
static_assert(kCapabilities<Partition<Full>> == kEverythingButResize);
static_assert(kCapabilities<Partition<Writer>> == Capabilities{.write = true});
static_assert(kCapabilities<Partition<Bare>> == kNothing);
static_assert(Partition<Full512>::kBlockSize == 512);
static_assert(Partition<BasicBare<1, Concurrency::kSerial>>::kConcurrency == Concurrency::kSerial);

using Image = std::vector<std::byte>;
using partition_internal::Wanted;

// The most that may ever be read: both GPTs at both sector sizes, each with a header and 4 MiB of entries.
constexpr uint64_t kMostRead = 4 * ((4 << 20) + 3 * 4096);

absl::StatusOr<Range> Find(const Image& image, Wanted wanted, uint64_t block_size = 1) {
  uint64_t total = 0;
  const auto read = [&](uint64_t offset, Bytes out) {
    EXPECT_FALSE(out.empty());
    EXPECT_EQ(offset % block_size, 0u);
    EXPECT_EQ(out.size() % block_size, 0u);
    EXPECT_LE(out.size(), std::max<uint64_t>(4096, block_size));
    EXPECT_LE(offset, image.size());
    EXPECT_LE(out.size(), image.size() - offset);
    std::copy_n(image.begin() + offset, out.size(), out.begin());
    total += out.size();
    return absl::OkStatus();
  };
  absl::StatusOr<Range> range = partition_internal::Find({image.size(), block_size, read}, wanted);
  EXPECT_LE(total, kMostRead);
  if (range.ok()) {
    EXPECT_GT(range->length, 0u);
    EXPECT_LE(range->offset, image.size());
    EXPECT_LE(range->length, image.size() - range->offset);
  }
  return range;
}

absl::StatusOr<Range> Find(const Image& image, uint64_t number) { return Find(image, {number, 0, false}); }

void ExpectRange(const absl::StatusOr<Range>& found, Range want) {
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->offset, want.offset);
  EXPECT_EQ(found->length, want.length);
}

void ExpectError(const absl::StatusOr<Range>& found, absl::StatusCode code, const std::string& words) {
  ASSERT_FALSE(found.ok()) << found->offset << "+" << found->length;
  EXPECT_EQ(found.status().code(), code) << found.status();
  const std::string message(found.status().message());
  EXPECT_NE(message.find(words), std::string::npos) << message << "\nlacks: " << words;
}

constexpr absl::StatusCode kBad = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kDamaged = absl::StatusCode::kDataLoss;

void Store(Image& image, uint64_t at, int width, uint64_t value) {
  for (int i = 0; i < width; ++i) image.at(at + i) = static_cast<std::byte>(value >> (8 * i));
}

// ---- Tables made by other programs.

struct Listed {
  std::map<int, Range> partitions;  // in sectors
};

// What the tool's own listing says. `format` is scanf's, for number, start and length after the name of the image.
Listed List(const std::string& command, const char* format) {
  const Result result = Shell(command);
  EXPECT_EQ(result.exit_code, 0) << command << ": " << result.output;
  Listed listed;
  for (size_t at = 0; (at = result.output.find(".img", at)) != std::string::npos; at += 4) {
    int number = 0;
    unsigned long start = 0;
    unsigned long length = 0;
    if (std::sscanf(result.output.c_str() + at, format, &number, &start, &length) == 3) {
      listed.partitions[number] = {start, length};
    }
  }
  EXPECT_FALSE(listed.partitions.empty()) << result.output;
  return listed;
}

Listed ListSfdisk(const std::string& path) { return List("sfdisk -d " + path, ".img%d : start= %lu, size= %lu"); }
Listed ListFdisk(const std::string& path) { return List("fdisk -b 4096 -l -o Device,Start,Sectors " + path, ".img%d %lu %lu"); }

std::string NewImage(const std::string& name) {
  std::string path = ::testing::TempDir();
  path += "/partition-" + name + ".img";
  EXPECT_EQ(Shell("rm -f " + path + " && truncate -s 64M " + path).exit_code, 0);
  return path;
}

void RunTool(const std::string& command) {
  const Result result = Shell(command);
  ASSERT_EQ(result.exit_code, 0) << command << ": " << result.output;
}

// Opens each partition that is listed, but for the extended one, and compares.
void ExpectAsListed(const std::string& path, const Listed& listed, uint64_t sector_size, uint64_t option, int extended = 0) {
  using Stack = Partition<FileBacked>;
  for (const auto& [number, range] : listed.partitions) {
    SCOPED_TRACE(number);
    Stack::State state;
    const absl::Status status = Stack::Open(
        {.partition = static_cast<uint64_t>(number), .sector_size = option, .below = {.path = path, .read_only = true}}, state);
    if (number == extended) {
      EXPECT_EQ(status.code(), kBad);
      EXPECT_NE(std::string(status.message()).find("is the extended one"), std::string::npos) << status;
      continue;
    }
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(state.part, (Range{range.offset * sector_size, range.length * sector_size}));
  }
  Stack::State state;
  const uint64_t past = static_cast<uint64_t>(listed.partitions.rbegin()->first) + 1;
  EXPECT_EQ(Stack::Open({.partition = past, .sector_size = option, .below = {.path = path, .read_only = true}}, state).code(),
            kBad);
}

TEST(PartitionTest, AGptOfSfdiskIsRead) {
  const std::string path = NewImage("gpt");
  RunTool("printf 'label: gpt\\n1: start=2048,size=4096\\n2: size=8192\\n100: size=100\\n7: size=1\\n' | sfdisk -q " + path);
  const Listed listed = ListSfdisk(path);
  EXPECT_EQ(listed.partitions.size(), 4u);
  ExpectAsListed(path, listed, 512, 0);
  ExpectAsListed(path, listed, 512, 512);
}

TEST(PartitionTest, AGptOfOtherLengthIsRead) {
  for (const int length : {1, 4, 15, 200, 1024}) {
    SCOPED_TRACE(length);
    const std::string path = NewImage("length");
    RunTool("printf 'label: gpt\\ntable-length: " + std::to_string(length) + "\\n" + std::to_string(length) +
            ": start=4096,size=4096\\n' | sfdisk -q " + path);
    ExpectAsListed(path, ListSfdisk(path), 512, 0);
  }
}

TEST(PartitionTest, AnMbrOfSfdiskIsRead) {
  const std::string path = NewImage("mbr");
  RunTool(
      "printf 'label: "
      "dos\\nstart=2048,size=4096,type=83\\nsize=60000,type=5\\nsize=8192\\nstart=100000\\nsize=2048\\nsize=4096\\n"
      "size=1024\\n' | sfdisk -q " +
      path);
  Listed listed = ListSfdisk(path);
  EXPECT_EQ(listed.partitions.size(), 7u);
  ExpectAsListed(path, listed, 512, 0, 2);
  ExpectAsListed(path, listed, 512, 512, 2);
  // A chain that leads back, after its first has gone.
  RunTool("sfdisk -q --delete " + path + " 5");
  RunTool("echo start=9000,size=100 | sfdisk -q -a " + path);
  listed = ListSfdisk(path);
  EXPECT_EQ(listed.partitions.at(7), (Range{9000, 100}));
  ExpectAsListed(path, listed, 512, 0, 2);
}

TEST(PartitionTest, AnMbrOfManyLogicalPartitionsIsRead) {
  for (const char* type : {"5", "f", "85"}) {
    const std::string path = NewImage("many");
    std::string script = std::string("label: dos\\nstart=2048,type=") + type + "\\n";
    for (int i = 0; i < 30; ++i) script += "size=100\\n";
    RunTool("printf '" + script + "' | sfdisk -q " + path);
    const Listed listed = ListSfdisk(path);
    EXPECT_EQ(listed.partitions.size(), 31u);
    ExpectAsListed(path, listed, 512, 0, 1);
  }
}

TEST(PartitionTest, SectorsOf4096BytesAreFoundOutForAGpt) {
  const std::string path = NewImage("gpt4096");
  RunTool("printf 'g\\nn\\n1\\n\\n+4M\\nn\\n5\\n\\n\\nw\\n' | fdisk -b 4096 " + path);
  const Listed listed = ListFdisk(path);
  EXPECT_EQ(listed.partitions.size(), 2u);
  ExpectAsListed(path, listed, 4096, 0);
  ExpectAsListed(path, listed, 4096, 4096);
}

TEST(PartitionTest, SectorsOf4096BytesAreAnOptionForAnMbr) {
  const std::string path = NewImage("mbr4096");
  RunTool("printf 'o\\nn\\np\\n1\\n\\n+4M\\nn\\ne\\n2\\n\\n\\nn\\nl\\n\\n+2M\\nn\\nl\\n\\n+3M\\nw\\n' | fdisk -b 4096 " + path);
  const Listed listed = ListFdisk(path);
  EXPECT_EQ(listed.partitions.size(), 4u);
  ExpectAsListed(path, listed, 4096, 4096, 2);
  // The table does not tell.
  Partition<FileBacked>::State state;
  ASSERT_TRUE(Partition<FileBacked>::Open({.partition = 1, .below = {.path = path, .read_only = true}}, state).ok());
  EXPECT_EQ(state.part, (Range{listed.partitions.at(1).offset * 512, listed.partitions.at(1).length * 512}));
}

// Bytes of the table that sfdisk made, changed one at a time.
TEST(PartitionTest, ADamagedGptOfSfdiskIsRefusedAndItsBackupIsUsedOnRequest) {
  const std::string path = NewImage("damaged");
  RunTool("printf 'label: gpt\\n1: start=2048,size=4096\\n2: size=8192\\n' | sfdisk -q " + path);
  const Listed listed = ListSfdisk(path);
  const auto open = [&](bool use_backup) {
    Partition<FileBacked>::State state;
    absl::Status status = Partition<FileBacked>::Open(
        {.partition = 2, .use_backup = use_backup, .below = {.path = path, .read_only = true}}, state);
    if (status.ok()) {
      const Range sectors = listed.partitions.at(2);
      EXPECT_EQ(state.part, (Range{sectors.offset * 512, sectors.length * 512}));
    }
    return status;
  };
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  // Signature, revision, size, sum, own place, sectors for partitions, GUID, entries; the first and the last entry.
  for (const off_t at : {512, 520, 524, 528, 536, 552, 560, 568, 584, 592, 596, 600, 1024, 1056, 1024 + 127 * 128 + 40}) {
    SCOPED_TRACE(at);
    uint8_t right;
    ASSERT_EQ(pread(fd, &right, 1, at), 1);
    const uint8_t wrong = right ^ 0x40;
    ASSERT_EQ(pwrite(fd, &wrong, 1, at), 1);
    const absl::Status status = open(false);
    EXPECT_EQ(status.code(), kDamaged) << status;
    EXPECT_NE(std::string(status.message()).find("; the backup at the end of the disk is sound"), std::string::npos) << status;
    EXPECT_TRUE(open(true).ok());
    ASSERT_EQ(pwrite(fd, &right, 1, at), 1);
    EXPECT_TRUE(open(false).ok());
  }
  close(fd);
}

TEST(PartitionTest, TwoGptsOfDifferentSectorsNeedTheOption) {
  const std::string path = NewImage("two");
  RunTool("printf 'g\\nn\\n1\\n\\n+4M\\nw\\n' | fdisk -b 4096 -w never " + path);
  const Listed large = ListFdisk(path);
  const std::string other = NewImage("other");
  // Its sectors 0 to 3 end before byte 4096, where the other header is.
  RunTool("printf 'label: gpt\\ntable-length: 8\\n1: start=2048,size=4096\\n' | sfdisk -q " + other);
  RunTool("dd status=none conv=notrunc bs=512 count=4 if=" + other + " of=" + path);
  const Listed small = ListSfdisk(other);
  Partition<FileBacked>::State state;
  const absl::Status status = Partition<FileBacked>::Open({.partition = 1, .below = {.path = path, .read_only = true}}, state);
  EXPECT_EQ(status.code(), kBad) << status;
  EXPECT_NE(std::string(status.message()).find("sector-size"), std::string::npos) << status;
  ExpectAsListed(path, small, 512, 512);
  ExpectAsListed(path, large, 4096, 4096);
}

// ---- GPTs of our own.

struct Gpt {
  static constexpr uint64_t kSectors = 256;
  uint64_t sector_size;
  Image image;

  // 16 entries of 128 bytes from sector 2 on, and before the last sector; sectors 40 to 200 are usable.
  explicit Gpt(uint64_t sector = 512) : sector_size(sector), image(kSectors * sector) {
    Store(image, 446 + 4, 1, 0xee);
    Store(image, 446 + 8, 4, 1);
    Store(image, 446 + 12, 4, kSectors - 1);
    Store(image, 510, 2, 0xaa55);
    for (const bool backup : {false, true}) {
      const uint64_t header = At(backup);
      std::copy_n(reinterpret_cast<const std::byte*>("EFI PART"), 8, image.begin() + header);
      Store(image, header + 8, 4, 0x10000);
      Store(image, header + 12, 4, 92);
      Store(image, header + 24, 8, backup ? kSectors - 1 : 1);
      Store(image, header + 32, 8, backup ? 1 : kSectors - 1);
      Store(image, header + 40, 8, 40);
      Store(image, header + 48, 8, 200);
      Store(image, header + 72, 8, Entries(backup));
      Store(image, header + 80, 4, 16);
      Store(image, header + 84, 4, 128);
    }
    Set(1, 40, 49);
    Set(2, 50, 200);
    Seal();
  }

  uint64_t At(bool backup) const { return (backup ? kSectors - 1 : 1) * sector_size; }
  static uint64_t Entries(bool backup) { return backup ? kSectors - 5 : 2; }

  // Sectors first to last, in both copies.
  void Set(uint64_t number, uint64_t first, uint64_t last) {
    for (const bool backup : {false, true}) {
      const uint64_t at = Entries(backup) * sector_size + (number - 1) * 128;
      Store(image, at, 1, 0xa5);
      Store(image, at + 32, 8, first);
      Store(image, at + 40, 8, last);
    }
  }

  void SetHeader(bool backup, uint64_t at, int width, uint64_t value) { Store(image, At(backup) + at, width, value); }

  // Makes the sums right, as far as what they are of exists.
  void Seal() {
    for (const bool backup : {false, true}) {
      const auto load = [&](uint64_t at, int width) {
        uint64_t value = 0;
        for (int i = width; i-- > 0;) value = value << 8 | std::to_integer<uint64_t>(image[At(backup) + at + i]);
        return value;
      };
      const auto sum = [&](uint64_t at, uint64_t length) {
        if (at > image.size() || length > image.size() - at) return uLong{0};
        return crc32(0, reinterpret_cast<const Bytef*>(image.data() + at), static_cast<uInt>(length));
      };
      if (load(72, 8) < kSectors) SetHeader(backup, 88, 4, sum(load(72, 8) * sector_size, load(80, 4) * load(84, 4)));
      SetHeader(backup, 16, 4, 0);
      SetHeader(backup, 16, 4, sum(At(backup), load(12, 4)));
    }
  }
};

TEST(PartitionTest, AGptOfOurOwnIsSound) {
  for (const uint64_t sector : {512, 4096}) {
    for (const uint64_t block : {1, 512, 768, 4096, 65536}) {
      SCOPED_TRACE(std::to_string(sector) + " " + std::to_string(block));
      Gpt gpt(sector);
      if (gpt.image.size() % block != 0) gpt.image.resize(gpt.image.size() / block * block + block);
      ExpectRange(Find(gpt.image, {1, 0, false}, block), {40 * sector, 10 * sector});
      ExpectRange(Find(gpt.image, {2, 0, false}, block), {50 * sector, 151 * sector});
      ExpectError(Find(gpt.image, {3, 0, false}, block), kBad, "there is no partition 3; the last number is 16");
    }
  }
}

TEST(PartitionTest, EveryDamagedByteOfAGptHeaderIsNoticed) {
  Gpt gpt;
  for (const bool use_backup : {false, true}) {
    for (uint64_t at = 512; at < 512 + 92; ++at) {
      const std::byte right = gpt.image[at];
      for (int flip = 1; flip < 256; ++flip) {
        gpt.image[at] = right ^ static_cast<std::byte>(flip);
        const absl::StatusOr<Range> found = Find(gpt.image, {1, 512, use_backup});
        if (use_backup) {
          ASSERT_TRUE(found.ok()) << at << " " << flip << found.status();
        } else {
          ASSERT_EQ(found.status().code(), kDamaged) << at << " " << flip;
          ASSERT_NE(std::string(found.status().message()).find("; the backup at the end of the disk is sound"),
                    std::string::npos);
        }
      }
      gpt.image[at] = right;
    }
  }
}

TEST(PartitionTest, EveryDamagedByteOfTheEntriesIsNoticed) {
  Gpt gpt;
  for (uint64_t at = 1024; at < 1024 + 16 * 128; ++at) {
    gpt.image[at] ^= std::byte{0x10};
    ExpectError(Find(gpt.image, 1), kDamaged, "the entries of the GPT from sector 2 of 512 bytes on have the CRC-32");
    ExpectRange(Find(gpt.image, {1, 0, true}), {40 * 512, 10 * 512});
    gpt.image[at] ^= std::byte{0x10};
  }
}

TEST(PartitionTest, TheBackupIsUsedOnlyWhereThePrimaryIsDamagedAndOnRequest) {
  Gpt gpt;
  // The copies differ: who is read shows.
  Store(gpt.image, Gpt::Entries(true) * 512 + 40, 8, 45);
  gpt.Seal();
  ExpectRange(Find(gpt.image, {1, 0, false}), {40 * 512, 10 * 512});
  ExpectRange(Find(gpt.image, {1, 0, true}), {40 * 512, 10 * 512});
  gpt.image[512] = std::byte{0};
  ExpectError(Find(gpt.image, {1, 0, false}), kDamaged,
              "the GPT header in sector 1 of 512 bytes lacks its signature; the backup at the end of the disk is sound: repair "
              "the disk with a "
              "partitioning tool, or use the backup with the option use-backup");
  ExpectRange(Find(gpt.image, {1, 0, true}), {40 * 512, 6 * 512});
  gpt.image[255 * 512 + 60] ^= std::byte{1};
  for (const bool use_backup : {false, true}) {
    ExpectError(Find(gpt.image, {1, 0, use_backup}), kDamaged,
                "the GPT header in sector 1 of 512 bytes lacks its signature; the backup cannot be used either: the GPT header "
                "in sector 255 of "
                "512 bytes has the CRC-32 ");
  }
}

TEST(PartitionTest, HostileHeadersAreRefusedThoughTheirSumsAreRight) {
  struct Case {
    uint64_t at;
    int width;
    uint64_t value;
    const char* words;
  };
  constexpr uint64_t kMost = UINT64_MAX;
  const std::vector<Case> cases = {
      {8, 4, 0x20000, "has revision 20000, and known is 10000"},
      {12, 4, 0, "claims 0 bytes, and not 92 to 512"},
      {12, 4, 91, "claims 91 bytes"},
      {12, 4, 513, "claims 513 bytes"},
      {12, 4, UINT32_MAX, "claims 4294967295 bytes"},
      {24, 8, 2, "says that it lies in sector 2"},
      {24, 8, kMost, "says that it lies in sector 18446744073709551615"},
      {32, 8, 100, "with the other GPT header in sector 100"},
      {40, 8, 0, "says that sectors 0 to 200 are for partitions, on a disk of 256"},
      {40, 8, 1, "says that sectors 1 to 200"},
      {40, 8, 201, "says that sectors 201 to 200"},
      {40, 8, kMost, "says that sectors 18446744073709551615 to 200"},
      {48, 8, 255, "says that sectors 40 to 255"},
      {48, 8, 256, "says that sectors 40 to 256"},
      {48, 8, kMost, "says that sectors 40 to 18446744073709551615"},
      {72, 8, 0, "says that its entries are the 4 sectors from 0 on"},
      {72, 8, 1, "says that its entries are the 4 sectors from 1 on"},
      {72, 8, 37, "says that its entries are the 4 sectors from 37 on"},
      {72, 8, 200, "says that its entries are the 4 sectors from 200 on"},
      {72, 8, 252, "says that its entries are the 4 sectors from 252 on"},
      {72, 8, 256, "says that its entries are the 4 sectors from 256 on"},
      {72, 8, kMost, "says that its entries are the 4 sectors from 18446744073709551615 on"},
      {80, 4, 0, "has 0 entries, and not 1 to 1024"},
      {80, 4, 1025, "has 1025 entries"},
      {80, 4, UINT32_MAX, "has 4294967295 entries"},
      {80, 4, 1024, "says that its entries are the 256 sectors from 2 on"},
      {84, 4, 0, "has entries of 0 bytes, and not a power of two from 128 to 4096"},
      {84, 4, 64, "has entries of 64 bytes"},
      {84, 4, 192, "has entries of 192 bytes"},
      {84, 4, 8192, "has entries of 8192 bytes"},
      {84, 4, UINT32_MAX, "has entries of 4294967295 bytes"},
      {84, 4, 2048, "says that its entries are the 64 sectors from 2 on"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.words);
    Gpt gpt;
    gpt.SetHeader(false, c.at, c.width, c.value);
    gpt.Seal();
    ExpectError(Find(gpt.image, 1), kDamaged, c.words);
    ExpectError(Find(gpt.image, 1), kDamaged, "; the backup at the end of the disk is sound");
    ExpectRange(Find(gpt.image, {1, 0, true}), {40 * 512, 10 * 512});
  }
}

TEST(PartitionTest, LargeEntriesAndHeadersAreReadAsTheyAre) {
  Gpt gpt(4096);
  gpt.SetHeader(false, 84, 4, 4096);
  gpt.SetHeader(false, 12, 4, 4096);
  Store(gpt.image, 3 * 4096, 1, 1);
  Store(gpt.image, 3 * 4096 + 32, 8, 60);
  Store(gpt.image, 3 * 4096 + 40, 8, 60);
  gpt.Seal();
  ExpectRange(Find(gpt.image, 2), {60 * 4096, 4096});
}

TEST(PartitionTest, AHostileEntryIsRefusedWhereItIsTheOneAskedFor) {
  constexpr uint64_t kMost = UINT64_MAX;
  for (const auto& [first, last] : std::vector<std::pair<uint64_t, uint64_t>>{
           {39, 49}, {0, 49}, {60, 59}, {60, 0}, {60, 201}, {60, kMost}, {kMost, kMost}, {kMost, 0}, {0, kMost}}) {
    Gpt gpt;
    gpt.Set(2, first, last);
    gpt.Seal();
    ExpectError(Find(gpt.image, 2), kDamaged,
                "partition 2 is sectors " + std::to_string(first) + " to " + std::to_string(last) +
                    ", which does not lie within sectors 40 to 200");
  }
}

TEST(PartitionTest, OverlappingPartitionsAreRefusedAndOthersAreNot) {
  constexpr uint64_t kMost = UINT64_MAX;
  for (const auto& [first, last] :
       std::vector<std::pair<uint64_t, uint64_t>>{{50, 200}, {40, 50}, {200, 200}, {0, kMost}, {100, kMost}, {60, 70}}) {
    Gpt gpt;
    gpt.Set(2, 50, 200);
    gpt.Set(1, 40, 40);
    gpt.Set(9, first, last);
    if (first <= 40) gpt.Set(1, 41, 41);
    gpt.Seal();
    ExpectError(
        Find(gpt.image, 2), kDamaged,
        "partition 2 is sectors 50 to 200, which overlaps sectors " + std::to_string(first) + " to " + std::to_string(last));
    if (first > 40) ExpectRange(Find(gpt.image, 1), {40 * 512, 512});
  }
  // A neighbour, and one that ends before it begins, overlap nothing.
  Gpt gpt;
  gpt.Set(9, 100, 60);
  gpt.Seal();
  ExpectRange(Find(gpt.image, 2), {50 * 512, 151 * 512});
}

TEST(PartitionTest, AGptOnADiskThatIsTooSmallIsRefused) {
  for (const uint64_t sectors : {1, 2, 3, 4, 6, 100, 200}) {
    Image image = Gpt().image;
    image.resize(sectors * 512);
    ExpectError(
        Find(image, {1, 0, true}), kDamaged,
        sectors < 3 ? "the device is too small for a GPT" : "says that sectors 40 to 200 are for partitions, on a disk of ");
  }
  // What is missing is no part of this copy.
  Image image = Gpt().image;
  image.resize(201 * 512);
  ExpectRange(Find(image, 2), {50 * 512, 151 * 512});
}

TEST(PartitionTest, AGptOnADiskThatHasGrownIsRead) {
  Image image = Gpt().image;
  image.resize(1000 * 512 + 100);
  ExpectRange(Find(image, 2), {50 * 512, 151 * 512});
}

// ---- MBRs of our own.

struct DosEntry {
  uint64_t type;
  uint64_t start;
  uint64_t length;
};

void SetTable(Image& image, uint64_t sector, const std::vector<DosEntry>& entries, uint64_t sector_size = 512) {
  const uint64_t at = sector * sector_size;
  Store(image, at + 510, 2, 0xaa55);
  for (size_t i = 0; i < entries.size(); ++i) {
    Store(image, at + 446 + 16 * i + 4, 1, entries[i].type);
    Store(image, at + 446 + 16 * i + 8, 4, entries[i].start);
    Store(image, at + 446 + 16 * i + 12, 4, entries[i].length);
  }
}

Image Mbr(const std::vector<DosEntry>& entries, uint64_t sectors = 2000) {
  Image image(sectors * 512);
  SetTable(image, 0, entries);
  return image;
}

TEST(PartitionTest, PrimaryPartitionsAreChecked) {
  constexpr uint64_t kMost = UINT32_MAX;
  const Image image = Mbr({{0x83, 1, 99}, {0x83, 1000, 1000}, {0x83, 1000, 0}, {0, 300, 10}});
  ExpectRange(Find(image, 1), {512, 99 * 512});
  ExpectRange(Find(image, 2), {1000 * 512, 1000 * 512});
  ExpectError(Find(image, 3), kBad, "there is no partition 3; the last number is 4");
  ExpectError(Find(image, 4), kBad, "there is no partition 4");
  ExpectError(Find(image, 5), kBad, "there is no partition 5; the last number is 4");
  ExpectError(Find(image, UINT64_MAX), kBad, "there is no partition 18446744073709551615");
  ExpectError(Find(Mbr({{0x83, 0, 10}}), 1), kDamaged,
              "partition 1 is sectors 0 to 9, which does not lie within sectors 1 to 1999");
  ExpectError(Find(Mbr({{0x83, 1000, 1001}}), 1), kDamaged, "partition 1 is sectors 1000 to 2000");
  ExpectError(Find(Mbr({{0x83, 2000, 1}}), 1), kDamaged, "partition 1 is sectors 2000 to 2000");
  ExpectError(Find(Mbr({{0x83, 1, kMost}}), 1), kDamaged, "partition 1 is sectors 1 to 4294967295");
  ExpectError(Find(Mbr({{0x83, kMost, kMost}}), 1), kDamaged, "partition 1 is sectors 4294967295 to 8589934589");
  const Image overlapping = Mbr({{0x83, 100, 100}, {0x83, 199, 10}, {0x5, 205, 500}, {0x83, 1000, 1}});
  ExpectError(Find(overlapping, 1), kDamaged, "partition 1 is sectors 100 to 199, which overlaps sectors 199 to 208");
  ExpectError(Find(overlapping, 2), kDamaged, "overlaps sectors 100 to 199");
  ExpectError(Find(overlapping, 3), kBad, "partition 3 is the extended one");
  ExpectRange(Find(overlapping, 4), {1000 * 512, 512});
}

TEST(PartitionTest, LogicalPartitionsAreCheckedWithTheirChain) {
  // An extended partition of sectors 100 to 999 with the tables given.
  const auto chain = [](const std::map<uint64_t, std::vector<DosEntry>>& tables) {
    Image image = Mbr({{0x83, 1, 9}, {0x05, 100, 900}});
    for (const auto& [sector, entries] : tables) SetTable(image, sector, entries);
    return image;
  };
  const Image sound = chain({{100, {{0x83, 1, 9}, {0x05, 100, 50}}}, {200, {{0x83, 10, 20}}}});
  ExpectRange(Find(sound, 5), {101 * 512, 9 * 512});
  ExpectRange(Find(sound, 6), {210 * 512, 20 * 512});
  ExpectError(Find(sound, 7), kBad, "there is no partition 7; the last number is 6");
  // An empty table in between counts for nothing, and the link may stand first.
  ExpectRange(
      Find(chain({{100, {{0, 0, 0}, {0x05, 100, 50}}}, {200, {{0x0f, 300, 5}, {0x83, 10, 20}}}, {400, {{0x83, 1, 1}}}}), 6),
      {401 * 512, 512});

  ExpectError(Find(chain({}), 5), kDamaged, "sector 100 does not end with the signature 55 AA");
  ExpectError(Find(chain({{100, {{0x83, 1, 9}, {0x05, 0, 50}}}}), 5), kDamaged, "comes back to sector 100");
  ExpectError(Find(chain({{100, {{0x83, 1, 9}, {0x05, 100, 50}}}, {200, {{0x83, 1, 9}, {0x05, 100, 50}}}}), 900), kDamaged,
              "comes back to sector 200");
  ExpectError(Find(chain({{100, {{0x83, 1, 9}, {0x05, 900, 50}}}}), 5), kDamaged,
              "leads to sector 1000, which is not in sectors 100 to 999 of the extended partition");
  ExpectError(Find(chain({{100, {{0x83, 1, 9}, {0x05, UINT32_MAX, 50}}}}), 5), kDamaged, "leads to sector 4294967395");
  ExpectError(Find(chain({{100, {{0x83, 0, 9}}}}), 5), kDamaged,
              "partition 5 is sectors 100 to 108, which overlaps sectors 100 to 100 of another or of the table");
  ExpectError(Find(chain({{100, {{0x83, 1, 900}}}}), 5), kDamaged,
              "partition 5 is sectors 101 to 1000, which does not lie within");
  ExpectError(Find(chain({{100, {{0x83, UINT32_MAX, UINT32_MAX}}}}), 5), kDamaged, "partition 5 is sectors 4294967395 to ");
  ExpectError(Find(chain({{100, {{0x83, 1, 100}, {0x05, 100, 50}}}, {200, {{0x83, 10, 20}}}}), 5), kDamaged,
              "overlaps sectors 200 to 200");
  ExpectError(Find(chain({{100, {{0x83, 101, 20}, {0x05, 100, 50}}}, {200, {{0x83, 10, 20}}}}), 6), kDamaged,
              "overlaps sectors 201 to 220");

  Image two = Mbr({{0x05, 100, 100}, {0x85, 300, 100}});
  SetTable(two, 100, {{0x83, 1, 9}});
  SetTable(two, 300, {{0x83, 1, 9}});
  ExpectError(Find(two, 5), kDamaged, "there are two extended partitions");
  // One that covers the table itself, and one that leaves the disk.
  ExpectError(Find(Mbr({{0x05, 0, 2000}}), 5), kDamaged, "comes back to sector 0");
  ExpectError(Find(Mbr({{0x05, 5000, 2000}}), 5), kDamaged, "leads to sector 5000");
  Image beyond = Mbr({{0x05, 100, 5000}});
  SetTable(beyond, 100, {{0x83, 1, 4000}});
  ExpectError(Find(beyond, 5), kDamaged, "partition 5 is sectors 101 to 4100, which does not lie within sectors 100 to 1999");
}

TEST(PartitionTest, AChainEndsAt1024Sectors) {
  for (const uint64_t links : {1024, 1025}) {
    Image image = Mbr({{0x05, 1, 3000}}, 4000);
    for (uint64_t i = 0; i < links; ++i) {
      SetTable(image, 1 + 2 * i, {{0x83, 1, 1}, {i + 1 < links ? uint64_t{0x05} : 0, 2 * (i + 1), 2}});
    }
    if (links == 1024) {
      ExpectRange(Find(image, 5 + 1023), {(1 + 2 * 1023 + 1) * 512, 512});
    } else {
      ExpectError(Find(image, 5), kDamaged, "has more than 1024 sectors");
    }
  }
}

TEST(PartitionTest, SectorZeroDecides) {
  ExpectError(Find(Image(4096), 1), kDamaged,
              "sector 0 does not end with the signature 55 AA of a partition table: the device has none");
  ExpectError(Find(Image(511), 1), kBad, "a device of 511 bytes has no sector of 512");
  ExpectError(Find(Image(0), 1), kBad, "a device of 0 bytes");
  ExpectError(Find(Image(4095), {1, 4096, false}), kBad, "a device of 4095 bytes has no sector of 4096");
  ExpectError(Find(Gpt().image, {0, 0, false}), kBad, "there is no partition 0");
  for (const uint64_t sector : {1, 511, 1024, 8192}) {
    ExpectError(Find(Gpt().image, {1, sector, false}), kBad, "sectors of " + std::to_string(sector) + " bytes are not known");
  }
  for (const uint64_t at : {510, 511}) {
    Image unsigned_table = Mbr({{0x83, 70, 7}});
    unsigned_table[at] ^= std::byte{1};
    ExpectError(Find(unsigned_table, 1), kDamaged, "does not end with the signature 55 AA");
  }
  // A GPT that no entry of sector 0 protects is the remains of one.
  Image remains = Gpt().image;
  SetTable(remains, 0, {{0x83, 70, 7}});
  ExpectRange(Find(remains, 1), {70 * 512, 7 * 512});
  // Any of the four entries may protect it.
  Image hybrid = Gpt().image;
  SetTable(hybrid, 0, {{0x83, 70, 7}, {0, 0, 0}, {0, 0, 0}, {0xee, 1, 69}});
  ExpectRange(Find(hybrid, 1), {40 * 512, 10 * 512});
}

// Find() above checks what must hold for any table: bounded reads, inside the medium.
TEST(PartitionTest, RandomTablesDoNoHarm) {
  std::mt19937_64 random(1);
  const auto interesting = [&]() -> uint64_t {
    switch (random() % 4) {
      case 0:
        return random() % 300;
      case 1:
        return UINT64_MAX - random() % 3;
      case 2:
        return uint64_t{1} << random() % 64;
      default:
        return random();
    }
  };
  int sound = 0;
  constexpr int kRounds = 10000;
  for (int round = 0; round < kRounds; ++round) {
    Gpt gpt;
    const bool is_gpt = round % 2 == 0;
    if (!is_gpt) {
      SetTable(gpt.image, 0, {{0x83, 10, 10}, {0x05, 100, 100}, {0x83, 20, 10}, {0, 0, 0}});
      SetTable(gpt.image, 100, {{0x83, 1, 10}, {0x05, 30, 20}});
      SetTable(gpt.image, 130, {{0x83, 1, 10}, {0, 0, 0}});
    }
    for (int changes = 1 + static_cast<int>(random() % 2); changes > 0; --changes) {
      static constexpr std::array<uint64_t, 10> kFields = {
          12, 24, 32, 40, 48, 72, 80, 84, 1024 - 512 + 32, 1024 - 512 + 128 + 40};
      static constexpr std::array<uint64_t, 3> kTables = {0, 100, 130};
      if (is_gpt) {
        gpt.SetHeader(false, kFields[random() % kFields.size()], random() % 2 == 0 ? 4 : 8, interesting());
      } else {
        Store(gpt.image, kTables[random() % 3] * 512 + 446 + 4 * (random() % 16), 4, interesting());
      }
    }
    if (is_gpt) gpt.Seal();
    sound += Find(gpt.image, {1 + random() % 8, random() % 2 * 512, random() % 2 == 0}).ok() ? 1 : 0;
  }
  // The changes are neither harmless nor always fatal.
  EXPECT_GT(sound, kRounds / 20);
  EXPECT_LT(sound, kRounds * 19 / 20);
}

// ---- The layer.

using Stack = Partition<Full>;

// A disk with one partition of sectors 4 to 5, in a leaf.
Stack::Config OnePartition(Script& script) {
  script.medium = Mbr({{0x83, 4, 2}}, 8);
  return {.partition = 1, .below = {.size = 8 * 512, .script = &script}};
}

TEST(PartitionTest, EveryOperationArrivesTranslated) {
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open(OnePartition(script), state).ok());
  script.calls.clear();
  std::array<std::byte, 16> bytes{};
  Gather gather;
  EXPECT_EQ(Stack::Size(state), 1024u);
  EXPECT_TRUE(Stack::Read(state, 1, bytes).ok());
  EXPECT_TRUE(Stack::Write(state, 2, bytes).ok());
  EXPECT_TRUE(Stack::WriteThrough(state, 3, bytes).ok());
  EXPECT_TRUE(Stack::Flush(state).ok());
  EXPECT_TRUE(Stack::Trim(state, {4, 5}).ok());
  EXPECT_TRUE(Stack::WriteZeroes(state, {6, 7}).ok());
  EXPECT_TRUE(Stack::Extents(state, {8, 9}, [](const Extent& extent) {
                EXPECT_EQ(extent.range, (Range{8, 9}));
                return true;
              }).ok());
  EXPECT_TRUE(Stack::Prefetch(state, {10, 11}).ok());
  EXPECT_TRUE(Stack::View(state, {12, 13}, gather).ok());
  EXPECT_EQ(script.calls, (std::vector<Call>{{"Read", {2049, 16}},
                                             {"Write", {2050, 16}},
                                             {"WriteThrough", {2051, 16}},
                                             {"Flush", {}},
                                             {"Trim", {2052, 5}},
                                             {"WriteZeroes", {2054, 7}},
                                             {"Extents", {2056, 9}},
                                             {"Prefetch", {2058, 11}},
                                             {"View", {2060, 13}}}));
  script.calls.clear();
  CallServerOperations<Stack>(state);
  EXPECT_EQ(
      script.calls,
      (std::vector<Call>{{"TryRead", {2064, 16}}, {"TryWrite", {2065, 16}}, {"Place", {2062, 15}}, {"Placed", {2062, 15}}}));
  const std::optional<FileRange> backing = Stack::Backing(state, {14, 15});
  ASSERT_TRUE(backing.has_value());
  EXPECT_EQ(backing->offset, 2062u);
}

TEST(PartitionTest, NothingOutsideThePartitionIsTouched) {
  Script script;
  Stack::State state;
  ASSERT_TRUE(Stack::Open(OnePartition(script), state).ok());
  ASSERT_FALSE(script.calls.empty());
  for (const Call& call : script.calls) EXPECT_EQ(call.operation, "Read") << "the table is never written";
  const Image zeroes(1024);
  const std::vector<std::function<absl::Status()>> changes = {
      [&] {
        return Stack::Trim(state, {0, 1024});
      },
      [&] {
        return Stack::WriteZeroes(state, {0, 1024});
      },
      [&] { return Stack::Write(state, 0, zeroes); },
      [&] { return Stack::WriteThrough(state, 0, zeroes); },
  };
  for (const auto& change : changes) {
    std::fill_n(script.medium.begin() + 512, 7 * 512, std::byte{0xaa});
    Image want = script.medium;
    std::fill_n(want.begin() + 2048, 1024, std::byte{0});
    EXPECT_TRUE(change().ok());
    EXPECT_EQ(script.medium, want);
  }
}

TEST(PartitionTest, APartitionOffTheBlocksBelowIsRefused) {
  using Blocks = Partition<BasicFull<4096, Concurrency::kParallel>>;
  const auto open = [](DosEntry entry) {
    Script script;
    script.medium = Mbr({entry}, 80);
    Blocks::State state;
    return Blocks::Open({.partition = 1, .below = {.size = 80 * 512, .script = &script}}, state);
  };
  EXPECT_TRUE(open({0x83, 8, 16}).ok());
  for (const DosEntry& entry : {DosEntry{0x83, 9, 16}, DosEntry{0x83, 8, 15}}) {
    const absl::Status status = open(entry);
    EXPECT_EQ(status.code(), kBad);
    const std::string message(status.message());
    EXPECT_NE(message.find("multiples of 4096"), std::string::npos) << message;
    EXPECT_NE(message.find(std::to_string(entry.start * 512)), std::string::npos) << message;
    EXPECT_NE(message.find(std::to_string(entry.length * 512)), std::string::npos) << message;
  }
}

TEST(PartitionTest, EveryErrorBelowSurfacesAndSparesTheRest) {
  std::array<std::byte, 16> bytes{};
  EXPECT_EQ(FailNth<Stack>(OnePartition, {7, 16}, [&](auto& state) { return Stack::Write(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(OnePartition, {7, 16}, [&](auto& state) { return Stack::WriteThrough(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(OnePartition, {7, 16}, [&](auto& state) { return Stack::Trim(state, {7, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(OnePartition, {7, 16}, [&](auto& state) { return Stack::WriteZeroes(state, {7, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(OnePartition, {}, [&](auto& state) { return Stack::Flush(state); }), 1);
  EXPECT_EQ(FailNth<Stack>(OnePartition, {}, [&](auto& state) { return Stack::Read(state, 7, bytes); }), 1);
  EXPECT_EQ(FailNth<Stack>(OnePartition, {}, [&](auto& state) { return Stack::Prefetch(state, {7, 16}); }), 1);
  EXPECT_EQ(FailNth<Stack>(OnePartition, {},
                           [&](auto& state) {
                             return Stack::Extents(state, {7, 16}, [](const Extent&) { return true; });
                           }),
            1);
}

TEST(PartitionTest, AnErrorOfReadingTheTableIsPassedOn) {
  for (const uint64_t number : {1, 5}) {
    for (int n = 0;; ++n) {
      Script script;
      script.medium = Mbr({{0x83, 1, 9}, {0x05, 100, 900}});
      SetTable(script.medium, 100, {{0x83, 1, 9}, {0x05, 100, 50}});
      SetTable(script.medium, 200, {{0x83, 1, 9}});
      script.fail_at = n;
      script.error = absl::UnavailableError("injected failure");
      Stack::State state;
      const uint64_t size = script.medium.size();
      const absl::Status status = Stack::Open({.partition = number, .below = {.size = size, .script = &script}}, state);
      if (static_cast<int>(script.calls.size()) <= n) {
        EXPECT_TRUE(status.ok()) << status;
        EXPECT_EQ(n, number == 1 ? 1 : 3);
        break;
      }
      EXPECT_EQ(status.code(), script.error.code()) << status;
      EXPECT_NE(std::string(status.message()).find("reading the table, at byte "), std::string::npos) << status;
    }
  }
}

TEST(PartitionTest, TheBackupHelpsWhereThePrimaryCannotBeRead) {
  for (const bool use_backup : {false, true}) {
    Script script;
    script.medium = Gpt().image;
    script.fail_at = 1;  // after sector 0
    script.error = absl::UnavailableError("injected failure");
    Stack::State state;
    const uint64_t size = script.medium.size();
    const absl::Status status = Stack::Open(
        {.partition = 1, .sector_size = 512, .use_backup = use_backup, .below = {.size = size, .script = &script}}, state);
    if (use_backup) {
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_EQ(state.part, (Range{40 * 512, 10 * 512}));
    } else {
      EXPECT_EQ(status.code(), script.error.code()) << status;
      EXPECT_NE(std::string(status.message()).find("; the backup at the end of the disk is sound"), std::string::npos)
          << status;
    }
  }
}

TEST(PartitionTest, AnErrorOfOpenBelowIsPassedOn) {
  Partition<FileBacked>::State state;
  EXPECT_FALSE(Partition<FileBacked>::Open({.partition = 1, .below = {.path = "/nonexistent"}}, state).ok());
}

}  // namespace
}  // namespace buse::testing
