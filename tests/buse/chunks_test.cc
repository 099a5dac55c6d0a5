// SPDX-License-Identifier: Apache-2.0
//
// The transmission phase with structured replies and with extended headers: what is sent is taken apart by a strict client
// written from the specification, and the devices answer by View and by Read.

#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "buse/connection.h"
#include "gtest/gtest.h"
#include "layers/align.h"
#include "layers/cache.h"
#include "layers/memory.h"
#include "tests/buse/byte_server.h"
#include "tests/leaves.h"
#include "tests/reply_stream.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Bare;
using testing::Big;
using testing::ByteServer;
using testing::Call;
using testing::ClientOption;
using testing::ExtendedChunk;
using testing::ExtendedRequest;
using testing::Full;
using testing::Full512;
using testing::ReadOutcome;
using testing::ReplyMessage;
using testing::Script;
using testing::SimpleReply;
using testing::StatusExtent;
using testing::StatusExtents;
using testing::StructuredChunk;
using testing::TakeRead;
using testing::Writer;

// Numbers are those of the specification, written out.
constexpr uint16_t kRead = 0, kWrite = 1, kDisc = 2, kFlush = 3, kTrim = 4, kCache = 5, kWriteZeroes = 6, kBlockStatus = 7;
constexpr uint16_t kFua = 1, kNoHole = 2, kDf = 4, kReqOne = 8, kFastZero = 16, kPayloadLen = 32;
constexpr uint32_t kEperm = 1, kEio = 5, kEinval = 22, kEnospc = 28, kEoverflow = 75, kEnotsup = 95;
constexpr uint64_t kHoleZero = 3;

const std::string kFlags = Big(4, 3);
const std::string kStructuredReply = ClientOption(8, ""), kExtendedHeaders = ClientOption(11, "");
const std::string kSetContext = ClientOption(10, Big(4, 0) + Big(4, 1) + Big(4, 15) + "base:allocation");
const std::string kSetCache = ClientOption(10, Big(4, 0) + Big(4, 1) + Big(4, 10) + "buse:cache");
const std::string kSetBoth =
    ClientOption(10, Big(4, 0) + Big(4, 2) + Big(4, 10) + "buse:cache" + Big(4, 15) + "base:allocation");
const std::string kGo = ClientOption(7, Big(4, 0) + Big(2, 0));

// Each test runs in both styles.
struct Style {
  bool extended;

  std::string Options(bool context = true) const { return OptionsWith(context ? kSetContext : ""); }
  std::string OptionsWith(const std::string& set) const {
    return kFlags + (extended ? kExtendedHeaders : kStructuredReply) + set + kGo;
  }
  std::string Ask(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, uint64_t length) const {
    return extended ? ExtendedRequest(flags, type, cookie, offset, length)
                    : testing::Request(flags, type, cookie, offset, static_cast<uint32_t>(length));
  }
  std::string Write(uint16_t flags, uint64_t cookie, uint64_t offset, const std::string& data) const {
    return Ask(flags | (extended ? kPayloadLen : 0), kWrite, cookie, offset, data.size()) + data;
  }
  std::string Done(uint64_t cookie, uint64_t offset = 0) const {
    return extended ? ExtendedChunk(1, 0, cookie, offset) : SimpleReply(0, cookie);
  }
  std::string Chunk(uint16_t flags, uint16_t type, uint64_t cookie, uint64_t offset, const std::string& payload) const {
    return extended ? ExtendedChunk(flags, type, cookie, offset, payload) : StructuredChunk(flags, type, cookie, payload);
  }
};

class ChunksTest : public ::testing::TestWithParam<bool> {
 protected:
  const Style style_ = {GetParam()};

  // What is sent must be well-formed, and each extended reply must repeat its request's offset, which is `offset`.
  std::vector<ReplyMessage> Split(const std::string& sent, std::optional<uint64_t> offset = {}) {
    testing::ReplyStream stream = testing::SplitReplies(sent, style_.extended);
    EXPECT_EQ(stream.wrong, "");
    for (const ReplyMessage& message : stream.messages) {
      if (style_.extended && offset) {
        EXPECT_EQ(message.offset, *offset);
      }
    }
    return stream.messages;
  }
  template <class Stack>
  ReadOutcome Read(ByteServer<Stack>& server, uint64_t offset, uint64_t length, uint16_t flags = 0) {
    std::vector<ReplyMessage> messages =
        Split(server.Talk(style_.Options(), style_.Ask(flags, kRead, 5, offset, length)), offset);
    ReadOutcome outcome = TakeRead(messages, 5, offset, length);
    EXPECT_TRUE(messages.empty());
    EXPECT_EQ(outcome.wrong, "");
    EXPECT_TRUE(server.status.ok());
    return outcome;
  }
  template <class Stack>
  std::vector<StatusExtent> Status(ByteServer<Stack>& server, uint64_t offset, uint64_t length, uint16_t flags = 0) {
    const auto messages = Split(server.Talk(style_.Options(), style_.Ask(flags, kBlockStatus, 5, offset, length)), offset);
    EXPECT_EQ(messages.size(), 1u);
    if (messages.size() != 1) return {};
    EXPECT_TRUE(messages[0].done());
    EXPECT_EQ(messages[0].payload.substr(0, 4), Big(4, 1)) << "the ID that SET_META_CONTEXT told";
    return StatusExtents(messages[0]);
  }
};

INSTANTIATE_TEST_SUITE_P(, ChunksTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "ExtendedHeaders" : "StructuredReplies"; });

// ---- READ.

TEST_P(ChunksTest, AReadIsOneChunkOfData) {
  ByteServer<Full> by_view;
  ByteServer<Writer> by_read;
  const std::string in = style_.Write(0, 1, 100, "some bytes") + style_.Ask(0, kRead, 2, 98, 14);
  const std::string data = std::string(2, '\0') + "some bytes" + std::string(2, '\0');
  const std::string out = style_.Done(1, 100) + style_.Chunk(1, 1, 2, 98, Big(8, 98) + data);
  for (size_t chunk : {size_t{1}, size_t{27}, size_t{33}, SIZE_MAX}) {
    EXPECT_EQ(by_view.Talk(style_.Options(), in, chunk), out);
    EXPECT_EQ(by_read.Talk(style_.Options(), in, chunk), out);
  }
}

TEST_P(ChunksTest, AReadOfNothingHasNoContent) {
  ByteServer<Full> server;
  EXPECT_EQ(server.Talk(style_.Options(), style_.Ask(0, kRead, 2, 98, 0)), style_.Chunk(1, 0, 2, 98, ""));
}

TEST_P(ChunksTest, ABatchIsAnsweredWithOneSend) {
  ByteServer<Memory> server;
  std::string in;
  for (uint64_t i = 0; i < 100; ++i) in += style_.Ask(0, kRead, i, i * 512, 512);
  std::vector<ReplyMessage> messages = Split(server.Talk(style_.Options(), in));
  EXPECT_EQ(server.stream.sends, 1);
  for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(TakeRead(messages, i, i * 512, 512).bytes, std::string(512, '\0'));
  EXPECT_TRUE(messages.empty());
}

TEST_P(ChunksTest, MoreRepliesThanABatchHoldsAreSentInSeveral) {
  ByteServer<Full> server;
  std::string in;
  for (uint64_t i = 0; i < 3000; ++i) in += style_.Ask(0, i % 3 == 0 ? kRead : kBlockStatus, i, i, 3);
  std::vector<ReplyMessage> messages = Split(server.Talk(style_.Options(), in));
  EXPECT_EQ(messages.size(), 3000u);
  for (uint64_t i = 0; i < 3000; i += 3) EXPECT_EQ(TakeRead(messages, i, i, 3).wrong, "");
}

constexpr uint32_t kMany = 1 << 20;

// 1 MiB with data in [256k, 320k) and, too little to matter, at 640k.
template <class Stack>
void FillSparsely(ByteServer<Stack>& server, const Style& style) {
  server.Talk(style.Options(), style.Write(0, 1, 256 << 10, std::string(64 << 10, 'a')) + style.Write(0, 2, 640 << 10, "b"));
}

std::string Sparse() {
  std::string content(kMany, '\0');
  content.replace(256 << 10, 64 << 10, std::string(64 << 10, 'a'));
  content.replace(640 << 10, 1, "b");
  return content;
}

TEST_P(ChunksTest, HolesOfALongReadAreSentAsHoles) {
  const auto check = [&](auto& server) {
    FillSparsely(server, style_);
    const ReadOutcome outcome = Read(server, 0, kMany);
    EXPECT_EQ(outcome.error, 0u);
    EXPECT_TRUE(outcome.bytes == Sparse());
    EXPECT_EQ(outcome.hole_chunks, 3);
    EXPECT_EQ(outcome.data_chunks, 2);
    EXPECT_LT(server.stream.out.size(), size_t{140} << 10) << "holes cost next to nothing";
  };
  ByteServer<Full> by_script(kMany);
  check(by_script);
  ByteServer<Memory> by_pages(kMany);
  check(by_pages);
}

TEST_P(ChunksTest, DfIsAnsweredByOneChunkWithTheZeroesInIt) {
  ByteServer<Memory> server(kMany);
  FillSparsely(server, style_);
  const ReadOutcome outcome = Read(server, 0, kMany, kDf);
  EXPECT_TRUE(outcome.bytes == Sparse());
  EXPECT_EQ(outcome.hole_chunks, 0);
  EXPECT_EQ(outcome.data_chunks, 1);
}

TEST_P(ChunksTest, AShortReadIsNotWorthAsking) {
  ByteServer<Full> server;
  EXPECT_EQ(Read(server, 0, 4096).data_chunks, 1);
  EXPECT_EQ(server.script.calls, (std::vector<Call>{{"View", {0, 4096}}}));
}

TEST_P(ChunksTest, AReadOfNothingButHoleIsOneChunk) {
  ByteServer<Memory> server(kMany);
  const ReadOutcome outcome = Read(server, 5, kMany - 10);
  EXPECT_EQ(outcome.hole_chunks, 1);
  EXPECT_EQ(outcome.data_chunks, 0);
}

TEST_P(ChunksTest, ManyHolesStayWithinBoundedChunks) {
  constexpr uint64_t kSize = 3 << 20;
  ByteServer<Full512> server(kSize);
  for (uint64_t at = 0; at < kSize; at += 128 << 10) server.script.medium[at] = std::byte{1};
  const std::string content(reinterpret_cast<const char*>(server.script.medium.data()), kSize);
  const ReadOutcome outcome = Read(server, 0, kSize);
  EXPECT_TRUE(outcome.bytes == content);
  EXPECT_GT(outcome.hole_chunks, 10);
  EXPECT_LE(outcome.hole_chunks + outcome.data_chunks, 32);
}

// Every other page is a hole, so that a view has more pieces than one send takes.
TEST_P(ChunksTest, AViewOfTooManyPiecesIsReadIntoTheBuffer) {
  constexpr uint32_t kPages = 1500, kLength = kPages * 4096;
  ByteServer<Memory> server(kLength);
  std::string writes, content(kLength, '\0');
  for (uint32_t page = 0; page < kPages; page += 2) {
    writes += style_.Write(0, page, page * 4096, "data");
    content.replace(page * 4096, 4, "data");
  }
  server.Talk(style_.Options(), writes);
  EXPECT_TRUE(Read(server, 0, kLength).bytes == content);
}

TEST_P(ChunksTest, ExtentsThatFailDoNotFailTheRead) {
  ByteServer<Full> server(kMany);
  server.script.fail_at = 0;
  const ReadOutcome outcome = Read(server, 0, kMany);
  EXPECT_EQ(outcome.error, 0u);
  EXPECT_EQ(server.script.calls[0].operation, "Extents");
}

TEST_P(ChunksTest, AFailedReadIsAnErrorWithItsSentence) {
  ByteServer<Full> by_view;
  ByteServer<Writer> by_read;
  const auto check = [&](auto& server) {
    server.script.fail_at = 0;
    server.script.error = absl::DataLossError("the bytes are wrong");
    const ReadOutcome outcome = Read(server, 4096, 4096);
    EXPECT_EQ(outcome.error, kEio);
    EXPECT_EQ(outcome.message, "the bytes are wrong");
    EXPECT_EQ(outcome.error_offset, UINT64_MAX) << "the offset is not known";
    EXPECT_EQ(outcome.data_chunks, 0);
    EXPECT_EQ(server.failures, (std::vector<std::string>{"read 4096 the bytes are wrong"}));
  };
  check(by_view);
  check(by_read);
}

TEST_P(ChunksTest, WhereAPartFailedTheOffsetIsTold) {
  ByteServer<Full> server(kMany);
  FillSparsely(server, style_);
  server.script.calls.clear();
  server.script.fail_at = 2;  // Extents, View of the first data, View of the second
  const ReadOutcome outcome = Read(server, 0, kMany);
  EXPECT_EQ(outcome.error, kEio);
  EXPECT_EQ(outcome.error_offset, uint64_t{640} << 10);
  EXPECT_TRUE(outcome.bytes.substr(0, 640 << 10) == Sparse().substr(0, 640 << 10)) << "what came before is good";
}

TEST_P(ChunksTest, ALongSentenceIsCutAtACharacter) {
  ByteServer<Full> server;
  server.script.fail_at = 0;
  std::string sentence = "x";
  while (sentence.size() < 5000) sentence += "\xc3\xa4";  // of two bytes each
  server.script.error = absl::InternalError(sentence);
  const ReadOutcome outcome = Read(server, 0, 512);
  EXPECT_EQ(outcome.message, sentence.substr(0, 255));
}

TEST_P(ChunksTest, AReadLongerThanTheLargestPayloadOverflows) {
  ByteServer<Full> server;
  for (uint64_t length : {uint64_t{(32 << 20) + 1}, uint64_t{0xffffffff}}) {
    EXPECT_EQ(Split(server.Talk(style_.Options(), style_.Ask(0, kRead, 1, 0, length)))[0].error, kEoverflow);
  }
}

// ---- BLOCK_STATUS.

TEST_P(ChunksTest, BlockStatusTellsHolesAndData) {
  ByteServer<Memory> server(kMany);
  FillSparsely(server, style_);
  EXPECT_EQ(Status(server, 0, kMany),
            (std::vector<StatusExtent>{
                {256 << 10, kHoleZero}, {64 << 10, 0}, {320 << 10, kHoleZero}, {4096, 0}, {(384 << 10) - 4096, kHoleZero}}));
  EXPECT_EQ(Status(server, 100, 200), (std::vector<StatusExtent>{{200, kHoleZero}}));
  EXPECT_EQ(Status(server, 0, kMany, kReqOne), (std::vector<StatusExtent>{{256 << 10, kHoleZero}}));
  EXPECT_EQ(Status(server, 1000, 1000, kReqOne), (std::vector<StatusExtent>{{1000, kHoleZero}})) << "no longer than asked";
}

// Allocated zeroes, and extents told one at a time.
struct Zeroed : Full {
  static absl::Status Extents(State&, Range range, EmitExtent emit) {
    const uint64_t length = std::min<uint64_t>(range.length, 4096 - range.offset % 4096);
    emit({{range.offset, length}, range.offset / 4096 % 4 == 0 ? Extent::Kind::kData : Extent::Kind::kZero});
    return absl::OkStatus();
  }
};

TEST_P(ChunksTest, BlockStatusTellsAllocatedZeroesAndPutsPrefixesTogether) {
  ByteServer<Zeroed> server;
  EXPECT_EQ(Status(server, 0, 32768), (std::vector<StatusExtent>{{4096, 0}, {12288, 2}, {4096, 0}, {12288, 2}}));
}

// A layer that says OK and emits nothing.
struct Mute : Full {
  static absl::Status Extents(State&, Range, EmitExtent) { return absl::OkStatus(); }
};

TEST_P(ChunksTest, ALayerThatTellsNothingIsTakenToHoldData) {
  ByteServer<Mute> server;
  EXPECT_EQ(Status(server, 0, 65536), (std::vector<StatusExtent>{{65536, 0}}));
  ByteServer<Mute> larger(kMany);
  EXPECT_EQ(Read(larger, 0, kMany).data_chunks, 1);
}

TEST_P(ChunksTest, BlockStatusOfATangleIsBounded) {
  constexpr uint64_t kSize = 12 << 20;
  ByteServer<Full512> server(kSize);
  for (uint64_t at = 0; at < kSize; at += 1024) server.script.medium[at] = std::byte{1};
  const std::vector<StatusExtent> extents = Status(server, 0, kSize);
  EXPECT_GT(extents.size(), 1000u);
  EXPECT_LE(extents.size(), 8192u);
  for (size_t i = 0; i < extents.size(); ++i) EXPECT_EQ(extents[i], (StatusExtent{512, i % 2 == 0 ? 0 : kHoleZero}));
}

TEST_P(ChunksTest, DescriptorsAreMultiplesOfTheAnnouncedBlock) {
  ByteServer<Full> server;
  server.about.min_block = 4096;
  server.script.medium[10000] = std::byte{1};
  EXPECT_EQ(Status(server, 0, 65536), (std::vector<StatusExtent>{{8192, kHoleZero}, {4096, 0}, {53248, kHoleZero}}));
}

TEST_P(ChunksTest, BlockStatusThatFailsIsAnError) {
  ByteServer<Full> server;
  server.script.fail_at = 0;
  const auto messages = Split(server.Talk(style_.Options(), style_.Ask(0, kBlockStatus, 5, 0, 512)), 0);
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].error, kEio);
  EXPECT_EQ(messages[0].message, "injected failure");
}

// ---- buse:cache.

constexpr uint64_t kCached = 1, kCachedAndDirty = 3;

// What each context says in answer to one request: by its ID.
std::map<std::string, std::vector<StatusExtent>> ByContext(const std::vector<ReplyMessage>& messages) {
  std::map<std::string, std::vector<StatusExtent>> extents;
  for (const ReplyMessage& message : messages) {
    EXPECT_FALSE(message.is_error()) << message.message;
    EXPECT_EQ(message.done(), &message == &messages.back());
    EXPECT_TRUE(extents.emplace(message.payload.substr(0, 4), StatusExtents(message)).second) << "one context twice";
  }
  return extents;
}

TEST_P(ChunksTest, BlockStatusTellsOfTwoContextsAtOnce) {
  ByteServer<Cache<Memory>> server;
  const std::string options = style_.OptionsWith(kSetBoth);
  const std::string change =
      style_.Write(0, 1, 8192, std::string(4096, 'a')) + style_.Write(0, 2, 16384 + 512, std::string(512, 'b'));
  const std::string ask = style_.Ask(0, kBlockStatus, 5, 0, 65536);
  std::vector<ReplyMessage> messages = Split(server.Talk(options, change + ask));
  messages.erase(messages.begin(), messages.begin() + 2);
  auto told = ByContext(messages);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[Big(4, 2)],
            (std::vector<StatusExtent>{{8192, 0}, {4096, kCachedAndDirty}, {4608, 0}, {512, kCachedAndDirty}, {48128, 0}}));
  EXPECT_EQ(told[Big(4, 1)],
            (std::vector<StatusExtent>{{8192, kHoleZero}, {4096, 0}, {4096, kHoleZero}, {4096, 0}, {65536 - 20480, kHoleZero}}))
      << "what is dirty is data, though nothing below is";
  // After a flush all is clean, and what is read is cached.
  messages = Split(server.Talk(options, style_.Ask(0, kFlush, 1, 0, 0) + style_.Ask(0, kRead, 2, 60000, 1) + ask));
  messages.erase(messages.begin(), messages.begin() + 2);
  told = ByContext(messages);
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[Big(4, 2)],
            (std::vector<StatusExtent>{
                {8192, 0}, {4096, kCached}, {4608, 0}, {512, kCached}, {39936, 0}, {4096, kCached}, {4096, 0}}));
}

TEST_P(ChunksTest, BlockStatusOfTheCacheAlone) {
  ByteServer<Cache<Memory>> server;
  const auto status = [&](uint64_t offset, uint64_t length, uint16_t flags = 0) {
    const auto told = ByContext(
        Split(server.Talk(style_.OptionsWith(kSetCache), style_.Ask(flags, kBlockStatus, 5, offset, length)), offset));
    return told.size() == 1 && told.count(Big(4, 2)) == 1 ? told.begin()->second : std::vector<StatusExtent>();
  };
  EXPECT_EQ(status(0, 65536), (std::vector<StatusExtent>{{65536, 0}}));
  server.Talk(style_.Options(), style_.Write(0, 1, 4096, std::string(8192, 'a')));
  EXPECT_EQ(status(0, 65536), (std::vector<StatusExtent>{{4096, 0}, {8192, kCachedAndDirty}, {53248, 0}}));
  EXPECT_EQ(status(5000, 100), (std::vector<StatusExtent>{{100, kCachedAndDirty}}));
  EXPECT_EQ(status(0, 65536, kReqOne), (std::vector<StatusExtent>{{4096, 0}}));
  EXPECT_EQ(status(5000, 100, kReqOne), (std::vector<StatusExtent>{{100, kCachedAndDirty}})) << "no longer than asked";
  server.about.min_block = 16384;
  EXPECT_EQ(status(0, 65536), (std::vector<StatusExtent>{{16384, 2}, {49152, 0}}))
      << "a unit in part dirty, in part not cached";
}

// Few sectors with one call, and then an end, or one that never ends.
struct Terse : Full {
  static absl::Status Residency(State&, Range range, EmitResident emit) {
    const uint64_t length = std::min<uint64_t>(range.length, 512);
    emit({{range.offset, length}, true, range.offset / 1024 % 2 == 0});
    return absl::OkStatus();
  }
};
struct TellsNothing : Full {
  static absl::Status Residency(State&, Range, EmitResident) { return absl::OkStatus(); }
};
struct Forgets : Full {
  static absl::Status Residency(State&, Range, EmitResident) { return absl::DataLossError("I do not know"); }
};

TEST_P(ChunksTest, WhatADeviceTellsOfItsCacheIsPutTogetherAndBounded) {
  const auto ask = [&](auto& server, uint64_t length) {
    return Split(server.Talk(style_.OptionsWith(kSetCache), style_.Ask(0, kBlockStatus, 5, 0, length)), 0);
  };
  ByteServer<Terse> terse;
  EXPECT_EQ(ByContext(ask(terse, 4096))[Big(4, 2)],
            (std::vector<StatusExtent>{{1024, kCachedAndDirty}, {1024, kCached}, {1024, kCachedAndDirty}, {1024, kCached}}));
  uint64_t told = 0;
  const std::vector<StatusExtent> extents = ByContext(ask(terse, 65536))[Big(4, 2)];
  for (const StatusExtent& extent : extents) told += extent.length;
  EXPECT_EQ(told, 16 * 512u) << "a client asks again for the rest";
  ByteServer<TellsNothing> mute;
  EXPECT_EQ(ByContext(ask(mute, 65536))[Big(4, 2)], (std::vector<StatusExtent>{{65536, 0}}));
  ByteServer<Forgets> failing;
  const std::vector<ReplyMessage> messages = ask(failing, 65536);
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].error, kEio);
  EXPECT_EQ(messages[0].message, "I do not know");
}

// The first context is told before the second fails.
TEST_P(ChunksTest, WhereOneContextFailsTheRequestDoes) {
  ByteServer<Forgets> server;
  const auto messages = Split(server.Talk(style_.OptionsWith(kSetBoth), style_.Ask(0, kBlockStatus, 5, 0, 4096)), 0);
  ASSERT_EQ(messages.size(), 2u);
  EXPECT_EQ(StatusExtents(messages[0]), (std::vector<StatusExtent>{{4096, kHoleZero}}));
  EXPECT_FALSE(messages[0].done());
  EXPECT_EQ(messages[1].error, kEio);
  EXPECT_TRUE(messages[1].done());
}

TEST_P(ChunksTest, WhereNothingIsCachedThereIsNoSuchContext) {
  static_assert(!nbd::ContextsOf<Memory>().has(nbd::kBuseCache) && nbd::ContextsOf<Memory>().has(nbd::kBaseAllocation));
  static_assert(nbd::ContextsOf<Align<Cache<Full512>>>().has(nbd::kBuseCache));
  static_assert(nbd::ContextsOf<Cache<Bare>>().has(nbd::kBuseCache) &&
                !nbd::ContextsOf<Cache<Bare>>().has(nbd::kBaseAllocation));
  ByteServer<Memory> server;
  const std::string ask = style_.Ask(0, kBlockStatus, 5, 0, 4096);
  EXPECT_EQ(Split(server.Talk(style_.OptionsWith(kSetCache), ask))[0].error, kEinval);
  EXPECT_EQ(ByContext(Split(server.Talk(style_.OptionsWith(kSetBoth), ask))).size(), 1u);
}

// ---- Other commands.

TEST_P(ChunksTest, CommandsArriveAtTheDevice) {
  const std::pair<std::string, std::vector<Call>> table[] = {
      {style_.Write(0, 1, 8, "data"), {{"Write", {8, 4}}}},
      {style_.Write(kFua, 1, 8, "data"), {{"WriteThrough", {8, 4}}}},
      {style_.Ask(kFua, kTrim, 1, 8, 4), {{"Trim", {8, 4}}, {"Flush", {}}}},
      {style_.Ask(0, kWriteZeroes, 1, 8, 4), {{"Trim", {8, 4}}}},
      {style_.Ask(kFastZero, kWriteZeroes, 1, 8, 4), {{"Trim", {8, 4}}}},
      {style_.Ask(kNoHole, kWriteZeroes, 1, 8, 4), {{"WriteZeroes", {8, 4}}}},
      {style_.Ask(0, kCache, 1, 8, 4), {{"Prefetch", {8, 4}}}},
  };
  for (const auto& [request, calls] : table) {
    ByteServer<Full> server;
    EXPECT_EQ(server.Talk(style_.Options(), request), style_.Done(1, 8));
    EXPECT_EQ(server.script.calls, calls);
  }
  ByteServer<Full> server;
  EXPECT_EQ(server.Talk(style_.Options(), style_.Ask(0, kFlush, 1, 0, 0)), style_.Done(1));
  EXPECT_EQ(server.script.calls, (std::vector<Call>{{"Flush", {}}}));
}

TEST_P(ChunksTest, EveryRequestInError) {
  struct Row {
    const char* name;
    std::string request;
    uint32_t error;
  };
  const uint64_t size = ByteServer<Full>::kSize;
  const Row rows[] = {
      {"read past the end", style_.Ask(0, kRead, 9, size - 1, 2), kEinval},
      {"read that wraps", style_.Ask(0, kRead, 9, ~0ull - 1, 4), kEinval},
      {"read with NO_HOLE", style_.Ask(kNoHole, kRead, 9, 0, 1), kEinval},
      {"write past the end", style_.Write(0, 9, size - 1, "xx"), kEnospc},
      {"write with DF", style_.Write(kDf, 9, 0, "x"), kEinval},
      {"write zeroes past the end", style_.Ask(0, kWriteZeroes, 9, size, 1), kEnospc},
      {"trim past the end", style_.Ask(0, kTrim, 9, 0, size + 1), kEinval},
      {"flush with a length", style_.Ask(0, kFlush, 9, 0, 1), kEinval},
      {"cache past the end", style_.Ask(0, kCache, 9, size, 1), kEinval},
      {"block status past the end", style_.Ask(0, kBlockStatus, 9, 0, size + 1), kEinval},
      {"block status of nothing", style_.Ask(0, kBlockStatus, 9, 0, 0), kEinval},
      {"block status with DF", style_.Ask(kDf, kBlockStatus, 9, 0, 1), kEinval},
      {"an unknown command", style_.Ask(0, 200, 9, 0, 0), kEinval},
      {"an unknown flag", style_.Ask(0x4000, kRead, 9, 0, 1), kEinval},
  };
  for (const Row& row : rows) {
    ByteServer<Full> server;
    auto messages = Split(server.Talk(style_.Options(), row.request + style_.Ask(0, kRead, 10, 0, 1)));
    ASSERT_EQ(messages.size(), 2u) << row.name;
    EXPECT_EQ(messages[0].cookie, 9u) << row.name;
    EXPECT_EQ(messages[0].error, row.error) << row.name;
    EXPECT_FALSE(messages[0].simple) << row.name << ": an error comes with its sentence";
    EXPECT_NE(messages[0].message, "") << row.name;
    EXPECT_TRUE(messages[0].done()) << row.name;
    EXPECT_EQ(TakeRead(messages, 10, 0, 1).wrong, "") << row.name;
    EXPECT_TRUE(server.script.calls.size() == 1) << row.name << ": only the read reached the device";
  }
  ByteServer<Bare> read_only;
  EXPECT_EQ(Split(read_only.Talk(style_.Options(), style_.Write(0, 9, 0, "x")))[0].error, kEperm);
}

TEST_P(ChunksTest, WithoutAContextThereIsNoBlockStatus) {
  ByteServer<Full> server;
  EXPECT_EQ(Split(server.Talk(style_.Options(false), style_.Ask(0, kBlockStatus, 9, 0, 512)))[0].error, kEinval);
  // Nor where the device cannot tell.
  ByteServer<Writer> mute;
  EXPECT_EQ(Split(mute.Talk(style_.Options(), style_.Ask(0, kBlockStatus, 9, 0, 512)))[0].error, kEinval);
}

TEST_P(ChunksTest, ALongWriteIsReceivedIntoPlace) {
  ByteServer<Full> server(1 << 20);
  const std::string data(100000, 'x');
  EXPECT_EQ(server.Talk(style_.Options(), style_.Write(kFua, 1, 8, data) + style_.Write(0, 2, 16, "some"), 5000),
            style_.Done(1, 8) + style_.Done(2, 16));
  EXPECT_EQ(server.script.calls,
            (std::vector<Call>{{"Place", {8, data.size()}}, {"Placed", {8, data.size()}}, {"Flush", {}}, {"Write", {16, 4}}}));
}

TEST_P(ChunksTest, DiscAnswersWhatCameBefore) {
  ByteServer<Full> server;
  EXPECT_EQ(Split(server.Talk(style_.Options(), style_.Ask(0, kRead, 1, 0, 4) + style_.Ask(0, kDisc, 2, 0, 0) + "rest")).size(),
            1u);
  EXPECT_TRUE(server.status.ok());
}

TEST_P(ChunksTest, AHeaderOfTheOtherStyleEndsTheConnection) {
  ByteServer<Full> server;
  const Style other = {!style_.extended};
  EXPECT_EQ(
      Split(server.Talk(style_.Options(), style_.Ask(0, kRead, 1, 0, 4) + other.Ask(0, kRead, 2, 0, 4) + "padding")).size(),
      1u);
  EXPECT_EQ(server.status.code(), absl::StatusCode::kInvalidArgument);
}

// At every byte of a negotiation and of requests of all kinds.
TEST_P(ChunksTest, AnEndAnywhereAnswersWhatWasWhole) {
  const std::string requests = style_.Write(0, 1, 100, "some bytes") + style_.Ask(0, kRead, 2, 98, 14) +
                               style_.Ask(0, kBlockStatus, 3, 0, 65536) + style_.Ask(0, kWriteZeroes, 4, 0, 65536) +
                               style_.Ask(0, kFlush, 5, 0, 0) + style_.Ask(0, kDisc, 6, 0, 0);
  const std::string all = style_.Options() + requests;
  ByteServer<Full> whole;
  whole.Talk(all, "");
  const std::string expected = whole.stream.out;
  for (size_t cut = 0; cut <= all.size(); ++cut) {
    for (size_t chunk : {size_t{1}, SIZE_MAX}) {
      ByteServer<Full> server;
      server.Talk(all.substr(0, cut), "", chunk);
      EXPECT_TRUE(server.status.ok()) << cut << ": " << server.status;
      EXPECT_EQ(server.stream.out, expected.substr(0, server.stream.out.size())) << cut;
      if (cut == all.size()) {
        EXPECT_EQ(server.stream.out, expected);
      }
    }
  }
}

// Requests with bytes changed, dropped and doubled: whatever is sent is well-formed.
TEST_P(ChunksTest, HostileBytesDoNoHarm) {
  std::mt19937 random(20130512);
  int ended_early = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string in;
    for (int i = 0; i < 8; ++i) {
      const uint16_t type = random() % 9, flags = 1 << random() % 7 >> 1;
      const uint32_t length = random() % 700;
      in += type == kWrite ? style_.Write(flags, i, random() % 70000, std::string(length, static_cast<char>(random())))
                           : style_.Ask(flags, type, i, random() % 70000, length);
    }
    for (int i = random() % 4; i > 0 && !in.empty(); --i) {
      const size_t at = random() % in.size();
      if (random() % 2 == 0) in[at] = static_cast<char>(random());
      if (random() % 4 == 0) in.erase(at, random() % 40);
      if (random() % 4 == 0) in.insert(at, in.substr(at, random() % 40));
    }
    ByteServer<Memory> server;
    Split(server.Talk(style_.Options(), in, 1 + random() % 500));
    ended_early += !server.status.ok();
    EXPECT_EQ(Read(server, 0, 1).wrong, "");
  }
  EXPECT_GT(ended_early, 100) << "the bytes were not hostile";
}

// ---- What only extended headers can say.

constexpr Style kWide = {true};

std::vector<ReplyMessage> SplitWide(const std::string& sent) {
  testing::ReplyStream stream = testing::SplitReplies(sent, true);
  EXPECT_EQ(stream.wrong, "");
  return stream.messages;
}

TEST(ExtendedHeadersTest, LengthsOf64Bits) {
  constexpr uint64_t kHuge = uint64_t{1} << 42, kLong = uint64_t{5} << 32;
  ByteServer<Memory> server(kHuge);
  const std::string in = kWide.Write(0, 1, kLong - 1, "x") + kWide.Ask(0, kTrim, 2, 0, kLong) +
                         kWide.Ask(0, kWriteZeroes, 3, 0, kLong) + kWide.Ask(kFastZero, kWriteZeroes, 4, 0, kHuge) +
                         kWide.Ask(0, kBlockStatus, 5, 0, kHuge) + kWide.Ask(0, kRead, 6, kLong - 1, 1);
  auto messages = SplitWide(server.Talk(kWide.Options(), in));
  ASSERT_EQ(messages.size(), 6u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(messages[i].type, 0) << messages[i].message;
  EXPECT_EQ(messages[4].type, 6);
  EXPECT_EQ(StatusExtents(messages[4]), (std::vector<StatusExtent>{{kHuge, kHoleZero}}));
  EXPECT_EQ(TakeRead(messages, 6, kLong - 1, 1).bytes, std::string(1, '\0'));
}

TEST(ExtendedHeadersTest, CacheTakes64Bits) {
  ByteServer<Full> server;
  EXPECT_EQ(SplitWide(server.Talk(kWide.Options(), kWide.Ask(0, kCache, 1, 0, uint64_t{1} << 33)))[0].error, kEinval);
  server.about.size = uint64_t{1} << 34;  // the leaf only records what it is asked
  EXPECT_EQ(SplitWide(server.Talk(kWide.Options(), kWide.Ask(0, kCache, 1, 0, uint64_t{1} << 33)))[0].error, 0u);
  EXPECT_EQ(server.script.calls, (std::vector<Call>{{"Prefetch", {0, uint64_t{1} << 33}}}));
}

TEST(ExtendedHeadersTest, ZeroesThatMustBeWrittenAsDataAreBounded) {
  ByteServer<Writer> server;
  server.about.size = uint64_t{1} << 40;
  const auto messages = SplitWide(server.Talk(kWide.Options(), kWide.Ask(0, kWriteZeroes, 1, 0, uint64_t{1} << 32)));
  EXPECT_EQ(messages[0].error, kEoverflow);
  EXPECT_TRUE(server.script.calls.empty());
}

TEST(ExtendedHeadersTest, AWriteWithoutPayloadLenHasNoPayload) {
  ByteServer<Full> server;
  auto messages = SplitWide(server.Talk(kWide.Options(), kWide.Ask(0, kWrite, 1, 0, 4096) + kWide.Ask(0, kRead, 2, 0, 1)));
  EXPECT_EQ(messages[0].error, kEinval);
  EXPECT_EQ(TakeRead(messages, 2, 0, 1).wrong, "");
}

TEST(ExtendedHeadersTest, APayloadThatIsNotExpectedIsConsumed) {
  const std::string payload(300000, 'x');
  for (uint16_t type : {kRead, kFlush, kTrim, kCache, kWriteZeroes, uint16_t{200}}) {
    for (size_t chunk : {size_t{1000}, SIZE_MAX}) {
      ByteServer<Full> server;
      auto messages = SplitWide(server.Talk(
          kWide.Options(), kWide.Ask(kPayloadLen, type, 1, 0, payload.size()) + payload + kWide.Ask(0, kRead, 2, 0, 1), chunk));
      ASSERT_EQ(messages.size(), 2u) << type;
      EXPECT_EQ(messages[0].error, kEinval) << type;
      EXPECT_EQ(TakeRead(messages, 2, 0, 1).wrong, "") << type;
    }
  }
}

// A disconnect has no reply, not even an error.
TEST(ExtendedHeadersTest, ADisconnectWithAPayloadDisconnects) {
  ByteServer<Full> server;
  EXPECT_EQ(server.Talk(kWide.Options(), kWide.Ask(kPayloadLen, kDisc, 1, 0, 4) + "data" + kWide.Ask(0, kRead, 2, 0, 1)), "");
  EXPECT_TRUE(server.status.ok());
}

TEST(ExtendedHeadersTest, APayloadLongerThanTheLargestEndsTheConnection) {
  for (uint16_t type : {kRead, kWrite, kBlockStatus}) {
    for (uint64_t length : {uint64_t{(32 << 20) + 1}, ~uint64_t{0}}) {
      ByteServer<Full> server;
      EXPECT_EQ(server.Talk(kWide.Options(), kWide.Ask(kPayloadLen, type, 1, 0, length) + "xx"), "");
      EXPECT_EQ(server.status.code(), absl::StatusCode::kInvalidArgument);
    }
  }
}

TEST(ExtendedHeadersTest, BlockStatusWithAPayloadNamesItsContexts) {
  const auto ask = [](uint64_t length, const std::string& ids, uint16_t flags = kPayloadLen) {
    return kWide.Ask(flags, kBlockStatus, 1, 0, 8 + ids.size()) + Big(8, length) + ids;
  };
  ByteServer<Memory> server;
  auto messages = SplitWide(server.Talk(kWide.Options(), ask(4096, Big(4, 1))));
  EXPECT_EQ(StatusExtents(messages.at(0)), (std::vector<StatusExtent>{{4096, kHoleZero}}));
  messages = SplitWide(server.Talk(kWide.Options(), ask(8192, Big(4, 1), kPayloadLen | kReqOne)));
  EXPECT_EQ(StatusExtents(messages.at(0)), (std::vector<StatusExtent>{{8192, kHoleZero}}));
  const std::string bad[] = {ask(4096, Big(4, 2)),
                             ask(4096, Big(4, 1) + Big(4, 1)),
                             ask(4096, Big(4, 1) + "x"),
                             ask(65537, Big(4, 1)),
                             ask(0, Big(4, 1)),
                             kWide.Ask(kPayloadLen, kBlockStatus, 1, 0, 7) + "1234567",
                             kWide.Ask(kPayloadLen, kBlockStatus, 1, 0, 0)};
  for (const std::string& request : bad) {
    messages = SplitWide(server.Talk(kWide.Options(), request + kWide.Ask(0, kRead, 2, 0, 1)));
    ASSERT_EQ(messages.size(), 2u);
    EXPECT_EQ(messages[0].error, kEinval);
    EXPECT_EQ(TakeRead(messages, 2, 0, 1).wrong, "");
  }
  // Not offered where no context was selected.
  messages = SplitWide(server.Talk(kWide.Options(false), ask(4096, Big(4, 1))));
  EXPECT_EQ(messages.at(0).error, kEinval);
}

TEST(ExtendedHeadersTest, APayloadChoosesAmongTwoContexts) {
  ByteServer<Cache<Memory>> server;
  const std::string options = kWide.OptionsWith(kSetBoth);
  server.Talk(options, kWide.Write(0, 1, 0, std::string(4096, 'a')));
  const auto ask = [&](const std::string& ids, uint16_t flags = kPayloadLen) {
    const std::string request = kWide.Ask(flags, kBlockStatus, 1, 0, 8 + ids.size()) + Big(8, 8192) + ids;
    return SplitWide(server.Talk(options, request));
  };
  const std::vector<StatusExtent> allocation = {{4096, 0}, {4096, kHoleZero}}, cache = {{4096, kCachedAndDirty}, {4096, 0}};
  auto told = ByContext(ask(Big(4, 2)));
  EXPECT_EQ(told.size(), 1u);
  EXPECT_EQ(told[Big(4, 2)], cache);
  told = ByContext(ask(Big(4, 1)));
  EXPECT_EQ(told.size(), 1u);
  EXPECT_EQ(told[Big(4, 1)], allocation);
  for (const std::string& both : {Big(4, 1) + Big(4, 2), Big(4, 2) + Big(4, 1)}) {
    told = ByContext(ask(both));
    EXPECT_EQ(told.size(), 2u);
    EXPECT_EQ(told[Big(4, 1)], allocation);
    EXPECT_EQ(told[Big(4, 2)], cache);
  }
  told = ByContext(ask(Big(4, 1) + Big(4, 2), kPayloadLen | kReqOne));
  EXPECT_EQ(told[Big(4, 1)], (std::vector<StatusExtent>{{4096, 0}}));
  EXPECT_EQ(told[Big(4, 2)], (std::vector<StatusExtent>{{4096, kCachedAndDirty}}));
  for (const std::string& bad : {Big(4, 3), Big(4, 2) + Big(4, 2), Big(4, 1) + Big(4, 2) + Big(4, 3), Big(4, 0)}) {
    const auto messages = ask(bad);
    ASSERT_EQ(messages.size(), 1u);
    EXPECT_EQ(messages[0].error, kEinval);
  }
  // Of the two that there are, one was selected.
  const std::string other = kWide.Ask(kPayloadLen, kBlockStatus, 1, 0, 12) + Big(8, 8192) + Big(4, 1);
  EXPECT_EQ(SplitWide(server.Talk(kWide.OptionsWith(kSetCache), other)).at(0).error, kEinval);
}

TEST(ExtendedHeadersTest, NotFastIsSaidFast) {
  ByteServer<Memory> server;
  EXPECT_EQ(SplitWide(server.Talk(kWide.Options(), kWide.Ask(kFastZero | kNoHole, kWriteZeroes, 1, 0, 512)))[0].error,
            kEnotsup);
}

// ---- The largest payload is the administrator's choice.

TEST_P(ChunksTest, ASmallerLargestPayloadHolds) {
  ByteServer<Full> server(1 << 20);
  server.about.max_payload = 65536;
  EXPECT_EQ(Read(server, 0, 65536, kDf).error, 0u);
  EXPECT_EQ(Read(server, 0, 65537).error, kEoverflow);
  const std::string data(65537, 'x');
  const std::string sent = server.Talk(style_.Options(), style_.Write(0, 1, 0, data) + style_.Ask(0, kRead, 2, 0, 1));
  if (style_.extended) {
    EXPECT_EQ(server.status.code(), absl::StatusCode::kInvalidArgument);
  } else {
    EXPECT_EQ(Split(sent)[0].error, kEinval);
    EXPECT_TRUE(server.status.ok());
  }
}

}  // namespace
}  // namespace buse
