// SPDX-License-Identifier: Apache-2.0
//
// What a server hands to the one that replaces it: messages with files, and contents from anywhere in a stack. Whole servers
// that take over are in tests/kernel.

#include "buse/takeover.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/control.h"
#include "buse/disk.h"
#include "buse/handover.h"
#include "buse/serve.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "layers/cache.h"
#include "layers/checksum.h"
#include "layers/concat.h"
#include "layers/file_backed.h"
#include "layers/log.h"
#include "layers/memory.h"
#include "layers/null.h"
#include "layers/offset.h"
#include "layers/power_cut.h"

namespace buse {
namespace {

using ::testing::HasSubstr;

static_assert(CanHandOver<Memory>);
static_assert(!CanHandOver<Log<Memory>> && kHandsOver<Log<Memory>>);
static_assert(kHandsOver<Concat<Null, Memory>> && !kHandsOver<Concat<Null, Null>> && !kHandsOver<Log<Null>>);

std::pair<ControlChannel, ControlChannel> Conversation() {
  int ends[2];
  EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
  return {ControlChannel(UniqueFd(ends[0])), ControlChannel(UniqueFd(ends[1]))};
}

bool SameFile(const UniqueFd& a, const UniqueFd& b) {
  struct stat one, other;
  return fstat(a.get(), &one) == 0 && fstat(b.get(), &other) == 0 && one.st_ino == other.st_ino && one.st_dev == other.st_dev;
}

UniqueFd File() {
  int ends[2];
  EXPECT_EQ(pipe(ends), 0);
  close(ends[1]);
  return UniqueFd(ends[0]);
}

TEST(TakeoverTest, AnEstateArrivesAsItWasSent) {
  auto [from, to] = Conversation();
  Estate sent;
  sent.request_timeout = std::chrono::seconds(20);
  for (int i = 0; i < 64; ++i) sent.sockets.push_back(File());
  for (uint64_t size : {uint64_t{1}, uint64_t{1} << 62}) sent.contents.push_back({File(), size});
  ASSERT_TRUE(sent.SendBy(from).ok());
  absl::StatusOr<ControlMessage> message = to.Receive(std::chrono::seconds(5));
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_TRUE(ControlChannel::ErrorIn(*message).ok());
  absl::StatusOr<Estate> got = Estate::From(*std::move(message));
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->request_timeout.count(), 20);
  ASSERT_EQ(got->sockets.size(), 64u);
  ASSERT_EQ(got->contents.size(), 2u);
  for (int i = 0; i < 64; ++i) EXPECT_TRUE(SameFile(got->sockets[i], sent.sockets[i])) << i;
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(SameFile(got->contents[i].file, sent.contents[i].file));
    EXPECT_EQ(got->contents[i].size, sent.contents[i].size);
  }
}

TEST(TakeoverTest, WhatIsNoEstateIsRefused) {
  for (const char* text : {"", "yours", "yours 10", "yours 10 2", "yours x 1", "yours 10 -1", "yours 10 0", "mine 10 1",
                           "yours 10 18446744073709551615", "yours 10 18446744073709551615 7 7"}) {
    ControlMessage message;
    message.text = text;
    message.files.push_back(File());
    EXPECT_FALSE(Estate::From(std::move(message)).ok()) << text;
  }
}

TEST(TakeoverTest, ErrorsTravel) {
  auto [from, to] = Conversation();
  ASSERT_TRUE(from.SendError(absl::NotFoundError("no such thing: 7 of 8")).ok());
  absl::StatusOr<ControlMessage> message = to.Receive(std::chrono::seconds(5));
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(ControlChannel::ErrorIn(*message), absl::NotFoundError("no such thing: 7 of 8"));
  ASSERT_TRUE(from.SendError(absl::InternalError(std::string(100000, 'x'))).ok());
  message = to.Receive(std::chrono::seconds(5));
  ASSERT_TRUE(message.ok());
  EXPECT_TRUE(absl::IsInternal(ControlChannel::ErrorIn(*message)));
  message->text = "error nonsense";
  EXPECT_FALSE(ControlChannel::ErrorIn(*message).ok());
}

TEST(TakeoverTest, SilenceAndAnEndAreErrors) {
  auto [from, to] = Conversation();
  EXPECT_TRUE(absl::IsUnavailable(to.Receive(std::chrono::seconds(1)).status()));
  { const ControlChannel gone = std::move(from); }
  EXPECT_TRUE(absl::IsUnavailable(to.Receive(std::chrono::seconds(5)).status()));
  EXPECT_TRUE(absl::IsUnavailable(to.Send("x")));
}

std::span<const std::byte> Text(const std::string& text) { return std::as_bytes(std::span(text)); }

TEST(TakeoverTest, ContentsAreHandedOverThroughAnyStack) {
  using Stack = Log<Concat<Offset<Memory>, Null, Memory>>;
  const auto config = [] {
    Stack::Config config;
    std::get<0>(config.below.below) = {.start = 4096, .below = {.size = 1 << 20}};
    std::get<1>(config.below.below) = {.size = 1 << 20};
    std::get<2>(config.below.below) = {.size = 1 << 20};
    return config;
  };
  Stack::Config first = config();
  absl::StatusOr<Disk<Stack>> disk = Disk<Stack>::Open(first);
  ASSERT_TRUE(disk.ok()) << disk.status();
  const uint64_t end = disk->size() - 5;
  ASSERT_TRUE(disk->Write(0, Text("front")).ok());
  ASSERT_TRUE(disk->Write(end, Text("after")).ok());
  std::vector<MemoryContents> contents;
  ASSERT_TRUE(HandOver<Stack>(disk->state(), contents).ok());
  ASSERT_EQ(contents.size(), 2u);
  disk->Close();

  Stack::Config second = config();
  EXPECT_FALSE(AdoptContents<Stack>(second, std::span(contents).first(1)));
  Memory::Config another;
  EXPECT_FALSE(AdoptContents<Memory>(another, contents)) << "too many for another stack";
  ASSERT_TRUE(AdoptContents<Stack>(second, contents));
  ASSERT_TRUE(disk->Reopen(second).ok());
  contents.clear();
  std::array<std::byte, 5> found;
  ASSERT_TRUE(disk->Read(0, found).ok());
  EXPECT_EQ(std::string(reinterpret_cast<char*>(found.data()), 5), "front");
  ASSERT_TRUE(disk->Read(end, found).ok());
  EXPECT_EQ(std::string(reinterpret_cast<char*>(found.data()), 5), "after");
}

TEST(TakeoverTest, WhatAKillCostsIsKnownBeforehand) {
  EXPECT_EQ(LossWhenKilled<Memory>({.size = 1}), Loss::kContents);
  EXPECT_EQ((LossWhenKilled<Concat<Null, Log<Memory>>>({})), Loss::kContents);
  EXPECT_EQ(LossWhenKilled<Log<FileBacked>>({}), Loss::kNothing);
  EXPECT_EQ(LossWhenKilled<Log<Cache<FileBacked>>>({}), Loss::kWrites);
  EXPECT_EQ(LossWhenKilled<Log<Cache<FileBacked>>>({.below = {.write_through = true}}), Loss::kNothing);
  EXPECT_EQ(LossWhenKilled<Log<Checksum<FileBacked>>>({}), Loss::kWrites) << "what is in its stage";
  EXPECT_EQ((LossWhenKilled<Cache<Checksum<FileBacked>>>({.write_through = true})), Loss::kWrites);
  EXPECT_EQ(LossWhenKilled<PowerCut<FileBacked>>({}), Loss::kWrites);
}

TEST(TakeoverTest, NothingIsMadeOfWhatShouldBeThere) {
  using Stack = Log<Concat<Memory, Offset<FileBacked>>>;
  Stack::Config config;
  auto& file = std::get<1>(config.below.below).below;
  file = {.path = ::testing::TempDir() + "/none", .create = 1 << 20};
  MakeNothing<Stack>(config);
  EXPECT_EQ(file.create, 0u);
  EXPECT_EQ(file.path, ::testing::TempDir() + "/none");
}

TEST(TakeoverTest, OnlyAKernelDeviceIsTakenOver) {
  ServeOptions options;
  const absl::StatusOr<Takeover> nothing = Takeover::Begin(options, Loss::kNothing);
  ASSERT_TRUE(nothing.ok());
  EXPECT_EQ(nothing->device(), "");
  for (const char* target : {"", "nbd://localhost/", "nbd+unix:///?socket=/tmp/x"}) {
    options = {};
    options.target = target;
    options.resume = true;
    EXPECT_TRUE(absl::IsInvalidArgument(Takeover::Begin(options, Loss::kNothing).status())) << target;
    options.resume = false;
    options.replace = true;
    EXPECT_TRUE(absl::IsInvalidArgument(Takeover::Begin(options, Loss::kNothing).status())) << target;
  }
  options = {};
  options.target = "/dev/nbd0";
  options.resume = options.replace = true;
  EXPECT_THAT(std::string(Takeover::Begin(options, Loss::kNothing).status().message()), HasSubstr("--resume and --replace"));
  options = {};
  options.target = "/dev/nbd0";
  options.ioctl = options.resume = true;
  EXPECT_THAT(std::string(Takeover::Begin(options, Loss::kNothing).status().message()), HasSubstr("--ioctl"));
}

TEST(TakeoverTest, ABackendIsNamedByWhatTheCommandLineNames) {
  std::string path = "/tmp/disk \"1\"\n.img", other = "b";
  uint64_t size = 7;
  std::vector<LayerInfo> layers(3);
  layers[0] = {.name = "log", .family = Family::kObserver, .depth = 0};
  layers[1] = {.name = "file", .family = Family::kLeaf, .depth = 1};
  OptionInfo option;
  option.positional = true;
  option.value = &path;
  layers[1].options = {option};
  layers[2] = {.name = "memory", .family = Family::kLeaf, .depth = 1};
  option.value = &size;
  layers[2].options = {option};
  EXPECT_EQ(BackendOf(layers), "file /tmp/disk \\\"1\\\"\\n.img memory");
  path = std::string(4096, 'x');
  const std::string long_name = BackendOf(layers);
  EXPECT_LE(long_name.size(), 500u);
  path += "y";
  EXPECT_NE(BackendOf(layers), long_name);
}

}  // namespace
}  // namespace buse
