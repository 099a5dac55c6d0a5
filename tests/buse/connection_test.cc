// SPDX-License-Identifier: Apache-2.0
//
// The transmission phase against the specification's literals, over devices that answer by View and by Read.

#include "buse/connection.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "layers/memory.h"
#include "layers/read_only.h"
#include "tests/buse/byte_server.h"
#include "tests/leaves.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Bare;
using testing::Big;
using testing::Call;
using testing::Full;
using testing::Full512;
using testing::Request;
using testing::SimpleReply;
using testing::Writer;

// Numbers are those of the specification, written out.
constexpr uint16_t kRead = 0, kWrite = 1, kDisc = 2, kFlush = 3, kTrim = 4, kCache = 5, kWriteZeroes = 6, kBlockStatus = 7;
constexpr uint16_t kFua = 1, kNoHole = 2, kDf = 4, kReqOne = 8, kFastZero = 16;
constexpr uint32_t kEperm = 1, kEio = 5, kEinval = 22, kEnospc = 28, kEnotsup = 95;

static_assert(nbd::TransmissionFlags<Full>() == 0b1101'0110'1101);
static_assert(nbd::TransmissionFlags<Writer>() == 0b001'0100'1101);
static_assert(nbd::TransmissionFlags<Bare>() == 0b001'0000'0011);
static_assert(nbd::TransmissionFlags<ReadOnly<Full>>() == 0b101'0000'0011);
static_assert(nbd::TransmissionFlags<Memory>() == 0b1001'0110'1101);
static_assert(nbd::WithoutFlags(0b1101'0110'1101, 1 << 6) == 0b101'0010'1101, "no FAST_ZERO without WRITE_ZEROES");
static_assert(nbd::WithoutWriting(nbd::TransmissionFlags<Full>()) == 0b101'0000'0011);

template <Device Stack>
using Server = testing::ByteServer<Stack>;

template <class Stack>
class ReadWriteTest : public ::testing::Test {};
using Writable = ::testing::Types<Full, Writer, Memory>;
TYPED_TEST_SUITE(ReadWriteTest, Writable);

TYPED_TEST(ReadWriteTest, ReadsBackWhatWasWritten) {
  for (size_t chunk : {size_t{1}, size_t{27}, size_t{29}, size_t{1000}, SIZE_MAX}) {
    Server<TypeParam> server;
    const std::string data = "some bytes";
    EXPECT_EQ(server.Serve(Request(0, kWrite, 1, 100, data.size()) + data + Request(0, kRead, 2, 98, 14), chunk),
              SimpleReply(0, 1) + SimpleReply(0, 2, std::string(2, '\0') + data + std::string(2, '\0')));
    EXPECT_TRUE(server.status.ok());
  }
}

TYPED_TEST(ReadWriteTest, PayloadsLargerThanTheReceiveBufferArriveWhole) {
  std::string data(300000, '\0');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7 + i / 1000);
  for (size_t chunk : {size_t{1000}, size_t{65536}, SIZE_MAX}) {
    Server<TypeParam> server(1 << 20);
    EXPECT_EQ(server.Serve(Request(0, kWrite, 1, 5, data.size()) + data + Request(0, kRead, 2, 5, data.size()), chunk),
              SimpleReply(0, 1) + SimpleReply(0, 2, data));
  }
}

TYPED_TEST(ReadWriteTest, ABatchIsAnsweredWithOneSend) {
  Server<TypeParam> server;
  std::string in, out;
  for (uint64_t i = 0; i < 100; ++i) {
    in += Request(0, kRead, i, i * 512, 512);
    out += SimpleReply(0, i, std::string(512, '\0'));
  }
  EXPECT_EQ(server.Serve(in), out);
  EXPECT_EQ(server.stream.sends, 1);
}

// While the client looks at the first, the next are read; what is lent is copied by the send, and all of it is one.
TYPED_TEST(ReadWriteTest, OfMuchThatWasCopiedTheFirstIsSentBeforeTheLastIsRead) {
  Server<TypeParam> server(1 << 20);
  std::string in, out;
  for (uint64_t i = 0; i < 64; ++i) {
    in += Request(0, kRead, i, i * 4096, 4096);
    out += SimpleReply(0, i, std::string(4096, '\0'));
  }
  EXPECT_EQ(server.Serve(in), out);
  EXPECT_EQ(server.stream.sends, CanView<TypeParam> ? 1 : 4);
}

TYPED_TEST(ReadWriteTest, MoreRepliesThanABatchHoldsAreSentInSeveral) {
  Server<TypeParam> server;
  std::string in, out;
  for (uint64_t i = 0; i < 2000; ++i) {
    in += Request(0, kRead, i, i, 3);
    out += SimpleReply(0, i, std::string(3, '\0'));
  }
  EXPECT_EQ(server.Serve(in), out);
}

TYPED_TEST(ReadWriteTest, EveryRequestInError) {
  const uint64_t size = Server<TypeParam>::kSize;
  struct Row {
    const char* name;
    std::string request;
    uint32_t error;
  };
  const Row rows[] = {
      {"read past the end", Request(0, kRead, 9, size - 1, 2), kEinval},
      {"read far past the end", Request(0, kRead, 9, size + 1, 1), kEinval},
      {"read near 2^64", Request(0, kRead, 9, ~0ull, 1), kEinval},
      {"read that wraps", Request(0, kRead, 9, ~0ull - 1, 0xffffffff), kEinval},
      {"read longer than the largest payload", Request(0, kRead, 9, 0, (32 << 20) + 1), kEinval},
      {"read of 2^32-1", Request(0, kRead, 9, 0, 0xffffffff), kEinval},
      {"read with DF, not negotiated", Request(kDf, kRead, 9, 0, 1), kEinval},
      {"read with an unknown flag", Request(0x8000, kRead, 9, 0, 1), kEinval},
      {"write past the end", Request(0, kWrite, 9, size - 1, 2) + "xx", kEnospc},
      {"write near 2^64", Request(0, kWrite, 9, ~0ull, 1) + "x", kEnospc},
      {"write with NO_HOLE", Request(kNoHole, kWrite, 9, 0, 1) + "x", kEinval},
      {"write longer than the largest payload", Request(0, kWrite, 9, 0, (32 << 20) + 1) + std::string((32 << 20) + 1, 'x'),
       kEinval},
      {"write zeroes past the end", Request(0, kWriteZeroes, 9, size, 1), kEnospc},
      {"write zeroes of 2^32-1", Request(0, kWriteZeroes, 9, 0, 0xffffffff), kEnospc},
      {"trim past the end", Request(0, kTrim, 9, 0, size + 1), kEinval},
      {"trim with NO_HOLE", Request(kNoHole, kTrim, 9, 0, 1), kEinval},
      {"flush with a length", Request(0, kFlush, 9, 0, 1), kEinval},
      {"flush with an offset", Request(0, kFlush, 9, 1, 0), kEinval},
      {"cache past the end", Request(0, kCache, 9, size, 1), kEinval},
      {"cache with an unknown flag", Request(kReqOne, kCache, 9, 0, 1), kEinval},
      {"block status, not negotiated", Request(0, kBlockStatus, 9, 0, 1), kEinval},
      {"an unknown command", Request(0, 200, 9, 0, 0), kEinval},
      {"BUSE's undoing: FUA as part of the type", Request(0, 0xffff, 9, 0, 0), kEinval},
  };
  for (const Row& row : rows) {
    Server<TypeParam> server;
    // The next request is understood and served: the stream stayed in step.
    EXPECT_EQ(server.Serve(row.request + Request(0, kRead, 10, 0, 1), 100000),
              SimpleReply(row.error, 9) + SimpleReply(0, 10, std::string(1, '\0')))
        << row.name;
    EXPECT_TRUE(server.status.ok()) << row.name;
  }
}

TYPED_TEST(ReadWriteTest, RequestsOfNoLengthSucceed) {
  Server<TypeParam> server;
  EXPECT_EQ(server.Serve(Request(0, kRead, 1, 0, 0) + Request(0, kWrite, 2, 65536, 0) + Request(0, kWriteZeroes, 3, 0, 0)),
            SimpleReply(0, 1) + SimpleReply(0, 2) + SimpleReply(0, 3));
}

TYPED_TEST(ReadWriteTest, DiscAnswersWhatCameBeforeAndIgnoresTheRest) {
  Server<TypeParam> server;
  EXPECT_EQ(server.Serve(Request(0, kRead, 1, 0, 4) + Request(0, kDisc, 2, 0, 0) + "anything"),
            SimpleReply(0, 1, std::string(4, '\0')));
  EXPECT_TRUE(server.status.ok());
}

TYPED_TEST(ReadWriteTest, WrongMagicEndsTheConnectionAfterTheRepliesThatAreDue) {
  Server<TypeParam> server;
  std::string bad = Request(0, kRead, 2, 0, 4);
  bad[3] = 0;
  EXPECT_EQ(server.Serve(Request(0, kRead, 1, 0, 4) + bad), SimpleReply(0, 1, std::string(4, '\0')));
  EXPECT_EQ(server.status.code(), absl::StatusCode::kInvalidArgument);
}

TYPED_TEST(ReadWriteTest, AnEndInsideARequestAnswersWhatWasWholeAndChangesNothing) {
  const std::string whole = Request(0, kRead, 1, 0, 4);
  const std::string write = Request(0, kWrite, 2, 0, 65000) + std::string(65000, 'x');
  for (size_t cut : {size_t{1}, size_t{27}, size_t{28}, size_t{29}, size_t{60000}, write.size() - 1}) {
    Server<TypeParam> server(1 << 20);
    EXPECT_EQ(server.Serve(whole + write.substr(0, cut), 50000), SimpleReply(0, 1, std::string(4, '\0'))) << cut;
    EXPECT_TRUE(server.status.ok());
    EXPECT_EQ(server.Serve(Request(0, kRead, 3, 0, 8)), SimpleReply(0, 3, std::string(8, '\0'))) << cut;
  }
}

// It may be received into place, and then a part of it stays; of its own range alone.
TYPED_TEST(ReadWriteTest, AnEndInsideALongWriteChangesNothingElse) {
  const std::string write = Request(0, kWrite, 2, 4000, 100000) + std::string(100000, 'x');
  for (size_t cut : {size_t{28}, size_t{29}, size_t{70000}, write.size() - 1}) {
    Server<TypeParam> server(1 << 20);
    EXPECT_EQ(server.Serve(Request(0, kWrite, 1, 0, 200000) + std::string(200000, 'o')), SimpleReply(0, 1));
    EXPECT_EQ(server.Serve(write.substr(0, cut)), "") << cut;
    EXPECT_TRUE(server.status.ok());
    EXPECT_EQ(server.Serve(Request(0, kRead, 3, 0, 4000) + Request(0, kRead, 4, 104000, 96000)),
              SimpleReply(0, 3, std::string(4000, 'o')) + SimpleReply(0, 4, std::string(96000, 'o')))
        << cut;
  }
}

TEST(ConnectionTest, AFailedReadSendsNoPayloadAndTheNextRequestIsServed) {
  const std::string in = Request(0, kRead, 1, 0, 4096) + Request(0, kRead, 2, 4096, 4096);
  const std::string out = SimpleReply(kEio, 1) + SimpleReply(0, 2, std::string(4096, '\0'));
  Server<Full> by_view;
  by_view.script.fail_at = 0;
  EXPECT_EQ(by_view.Serve(in), out);
  EXPECT_EQ(by_view.failures, (std::vector<std::string>{"read 0 injected failure"}));
  Server<Writer> by_read;
  by_read.script.fail_at = 0;
  EXPECT_EQ(by_read.Serve(in), out);
  EXPECT_EQ(by_read.failures, (std::vector<std::string>{"read 0 injected failure"}));
}

TEST(ConnectionTest, EveryFailureOfTheDeviceBecomesItsError) {
  const std::pair<absl::Status, uint32_t> table[] = {
      {absl::InternalError("x"), 5},         {absl::DataLossError("x"), 5},
      {absl::PermissionDeniedError("x"), 1}, {absl::ResourceExhaustedError("x"), 28},
      {absl::UnavailableError("x"), 5},      {absl::InvalidArgumentError("x"), 22},
      {absl::UnimplementedError("x"), 22},   {absl::OutOfRangeError("x"), 22},
      {absl::CancelledError("x"), 108},      {absl::UnknownError("x"), 5},
  };
  for (const auto& [error, number] : table) {
    for (const std::string& request :
         {Request(0, kRead, 1, 0, 1), Request(0, kWrite, 1, 0, 1) + "x", Request(0, kFlush, 1, 0, 0),
          Request(0, kTrim, 1, 0, 1), Request(0, kWriteZeroes, 1, 0, 1), Request(0, kCache, 1, 0, 1)}) {
      Server<Full> server;
      server.script.fail_at = 0;
      server.script.error = error;
      EXPECT_EQ(server.Serve(request), SimpleReply(number, 1));
    }
  }
}

// What arrives at the device, for each command and flag.
TEST(ConnectionTest, CommandsArriveAtTheDevice) {
  const std::pair<std::string, std::vector<Call>> table[] = {
      {Request(0, kWrite, 1, 8, 4) + "data", {{"Write", {8, 4}}}},
      {Request(kFua, kWrite, 1, 8, 4) + "data", {{"WriteThrough", {8, 4}}}},
      {Request(0, kFlush, 1, 0, 0), {{"Flush", {}}}},
      {Request(kFua, kFlush, 1, 0, 0), {{"Flush", {}}}},
      {Request(0, kTrim, 1, 8, 4), {{"Trim", {8, 4}}}},
      {Request(kFua, kTrim, 1, 8, 4), {{"Trim", {8, 4}}, {"Flush", {}}}},
      {Request(0, kWriteZeroes, 1, 8, 4), {{"Trim", {8, 4}}}},
      {Request(kNoHole, kWriteZeroes, 1, 8, 4), {{"WriteZeroes", {8, 4}}}},
      {Request(kFastZero, kWriteZeroes, 1, 8, 4), {{"Trim", {8, 4}}}},
      {Request(kNoHole | kFua, kWriteZeroes, 1, 8, 4), {{"WriteZeroes", {8, 4}}, {"Flush", {}}}},
      {Request(0, kCache, 1, 8, 4), {{"Prefetch", {8, 4}}}},
      {Request(kFua, kCache, 1, 8, 4), {{"Prefetch", {8, 4}}}},
  };
  for (const auto& [request, calls] : table) {
    Server<Full> server;
    EXPECT_EQ(server.Serve(request), SimpleReply(0, 1));
    EXPECT_EQ(server.script.calls, calls);
  }
}

TEST(ConnectionTest, WhatADeviceLacksIsEmulatedOrRefused) {
  const std::pair<std::string, std::vector<Call>> table[] = {
      {Request(kFua, kWrite, 1, 8, 4) + "data", {{"Write", {8, 4}}, {"Flush", {}}}},
      {Request(0, kWriteZeroes, 1, 8, 4), {{"Write", {8, 4}}}},
      {Request(0, kCache, 1, 8, 4), {}},
  };
  for (const auto& [request, calls] : table) {
    Server<Writer> server;
    EXPECT_EQ(server.Serve(request), SimpleReply(0, 1));
    EXPECT_EQ(server.script.calls, calls);
  }
  Server<Writer> server;
  EXPECT_EQ(server.Serve(Request(0, kTrim, 1, 8, 4)), SimpleReply(kEinval, 1)) << "TRIM was not announced";
  EXPECT_EQ(server.Serve(Request(kFastZero, kWriteZeroes, 1, 8, 4)), SimpleReply(kEinval, 1)) << "FAST_ZERO was not announced";
}

TEST(ConnectionTest, ZeroesThatAreNotFastAreRefusedToWhoWantsThemFast) {
  // Only Trim is known to be fast.
  Server<Memory> server;
  EXPECT_EQ(server.Serve(Request(0, kWrite, 1, 0, 1) + "x" + Request(kFastZero | kNoHole, kWriteZeroes, 2, 0, 1) +
                         Request(0, kRead, 3, 0, 1) + Request(kFastZero, kWriteZeroes, 4, 0, 1) + Request(0, kRead, 5, 0, 1)),
            SimpleReply(0, 1) + SimpleReply(kEnotsup, 2) + SimpleReply(0, 3, "x") + SimpleReply(0, 4) +
                SimpleReply(0, 5, std::string(1, '\0')))
      << "what is refused changes nothing";
}

TEST(ConnectionTest, AReadOnlyDeviceRefusesEveryChange) {
  for (const std::string& request :
       {Request(0, kWrite, 1, 0, 1) + "x", Request(0, kWriteZeroes, 1, 0, 1), Request(0, kTrim, 1, 0, 1)}) {
    Server<Bare> server;
    EXPECT_EQ(server.Serve(request + Request(0, kRead, 2, 0, 1)),
              SimpleReply(kEperm, 1) + SimpleReply(0, 2, std::string(1, '\0')));
  }
  Server<Bare> server;
  EXPECT_EQ(server.Serve(Request(0, kFlush, 1, 0, 0)), SimpleReply(kEinval, 1)) << "FLUSH was not announced";
  EXPECT_EQ(server.Serve(Request(kFua, kRead, 1, 0, 1)), SimpleReply(kEinval, 1)) << "FUA was not announced";
}

TEST(ConnectionTest, RequestsMustBeAlignedToTheAnnouncedBlock) {
  Server<Full512> server;
  EXPECT_EQ(
      server.Serve(Request(0, kRead, 1, 1, 512) + Request(0, kRead, 2, 512, 511) + Request(0, kWrite, 3, 256, 4) + "data" +
                   Request(0, kRead, 4, 512, 512)),
      SimpleReply(kEinval, 1) + SimpleReply(kEinval, 2) + SimpleReply(kEinval, 3) + SimpleReply(0, 4, std::string(512, '\0')));
  EXPECT_EQ(server.script.calls, (std::vector<Call>{{"View", {512, 512}}}));
}

// A layer's mistake must not put the stream out of step.
struct ShortView : Full {
  static absl::Status View(State& self, Range range, Gather& gather) {
    return Full::View(self, {range.offset, range.length - 1}, gather);
  }
};

TEST(ConnectionTest, AViewOfTheWrongLengthIsAnErrorOfThatRequestAlone) {
  Server<ShortView> server;
  EXPECT_EQ(server.Serve(Request(0, kRead, 1, 0, 512) + Request(0, kFlush, 2, 0, 0)), SimpleReply(kEio, 1) + SimpleReply(0, 2));
}

// A write of 100000 bytes, whose payload does not arrive with its header.
constexpr size_t kLong = 100000;

template <class Stack>
std::vector<Call> CallsOfALongWrite(uint16_t flags, size_t sent, int64_t fail_at = -1) {
  Server<Stack> server(1 << 20);
  server.script.fail_at = fail_at;
  const std::string out = server.Serve(Request(flags, kWrite, 1, 512 * 9, 512 * 200) + std::string(sent, 'x'), 1000);
  EXPECT_EQ(out, sent == 512 * 200 ? SimpleReply(0, 1) : "");
  EXPECT_EQ(server.script.medium[512 * 9 + 2000], std::byte{'x'});
  return server.script.calls;
}

using Serial = testing::BasicFull<1, Concurrency::kSerial>;

TEST(ConnectionTest, ALongWriteIsReceivedIntoPlace) {
  const Range range = {512 * 9, 512 * 200};
  const std::vector<Call> in_place = {{"Place", range}, {"Placed", range}};
  EXPECT_EQ(CallsOfALongWrite<Full>(0, range.length), in_place);
  EXPECT_EQ(CallsOfALongWrite<Full512>(0, range.length), in_place);
  EXPECT_EQ(CallsOfALongWrite<Full>(kFua, range.length),
            (std::vector<Call>{{"Place", range}, {"Placed", range}, {"Flush", {}}}));
  EXPECT_EQ(CallsOfALongWrite<Full>(0, 5000), in_place) << "the device must know of what came before the client went";
  EXPECT_EQ(CallsOfALongWrite<Full>(0, range.length, 0), (std::vector<Call>{{"Place", range}, {"Write", range}}))
      << "what cannot be lent is written";
  EXPECT_EQ(CallsOfALongWrite<Writer>(0, range.length), (std::vector<Call>{{"Write", range}}));
  EXPECT_EQ(CallsOfALongWrite<Serial>(0, range.length), (std::vector<Call>{{"Write", range}})) << "nobody waits for a client";
}

TEST(ConnectionTest, ALongWriteThatIsRefusedOrFailsTouchesNothingElse) {
  Server<Full> server(1 << 20);
  server.script.fail_at = 1;  // Placed
  const std::string data(kLong, 'x');
  EXPECT_EQ(server.Serve(Request(0, kWrite, 1, (1 << 20) - 1, kLong) + data + Request(0, kWrite, 2, 7, kLong) + data +
                             Request(0, kRead, 3, 6 + kLong, 2),
                         5000),
            SimpleReply(kEnospc, 1) + SimpleReply(kEio, 2) + SimpleReply(0, 3, std::string("x\0", 2)));
  EXPECT_EQ(server.script.calls, (std::vector<Call>{{"Place", {7, kLong}}, {"Placed", {7, kLong}}, {"View", {6 + kLong, 2}}}));
  EXPECT_EQ(server.failures, (std::vector<std::string>{"write 7 injected failure"}));
}

struct ShortPlace : Full {
  static absl::Status Place(State& self, Range range, Scatter& scatter) {
    return Full::Place(self, {range.offset, 10}, scatter);
  }
};

TEST(ConnectionTest, APlaceOfTheWrongLengthIsNotUsed) {
  Server<ShortPlace> server(1 << 20);
  const std::string data(kLong, 'x');
  EXPECT_EQ(server.Serve(Request(0, kWrite, 1, 0, kLong) + data + Request(0, kRead, 2, kLong - 2, 2), 5000),
            SimpleReply(0, 1) + SimpleReply(0, 2, "xx"));
}

TEST(ConnectionTest, WhatIsFinishedDoesNotWaitForWhatMayTakeLong) {
  for (const std::string& slow : {Request(0, kFlush, 2, 0, 0), Request(0, kTrim, 2, 0, 512),
                                  Request(0, kWriteZeroes, 2, 0, 512), Request(kFua, kWrite, 2, 0, 1) + "x"}) {
    Server<Full> server;
    server.Serve(Request(0, kRead, 1, 0, 512) + slow);
    EXPECT_EQ(server.stream.sends, 2) << "the read's answer goes ahead";
  }
}

TEST(ConnectionTest, AFlushIsNeverReportedWhereThereIsNone) {
  // Whatever a server announces, the type decides.
  Server<Bare> server;
  server.about.flags |= 0b1100'0100'1100;
  EXPECT_EQ(server.Serve(Request(0, kFlush, 1, 0, 0)), SimpleReply(kEinval, 1));
}

// Requests with bytes changed, dropped and doubled. Whatever they ask for, the server ends in order and the device still works.
TEST(ConnectionTest, HostileBytesDoNoHarm) {
  std::mt19937 random(20130511);
  int ended_early = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string in;
    for (int i = 0; i < 8; ++i) {
      const uint16_t type = random() % 8;
      const uint32_t length = random() % 700;
      in += Request(random() % 4, type, i, random() % 70000, length);
      if (type == kWrite) in += std::string(length, static_cast<char>(random()));
    }
    for (int i = random() % 6; i > 0 && !in.empty(); --i) {
      const size_t at = random() % in.size();
      switch (random() % 4) {
        case 0:
          in[at] = static_cast<char>(random());
          break;
        case 1:
          in.erase(at, random() % 40);
          break;
        case 2:
          in.insert(at, in.substr(at, random() % 40));
          break;
        default:
          in.replace(at, std::min<size_t>(4, in.size() - at),
                     Big(4, 0xffffffff).substr(0, std::min<size_t>(4, in.size() - at)));
      }
    }
    Server<Memory> server;
    server.Serve(in, 1 + random() % 500);
    ended_early += !server.status.ok();
    EXPECT_EQ(server.Serve(Request(0, kWrite, 1, 0, 1) + "x" + Request(0, kRead, 2, 0, 1)),
              SimpleReply(0, 1) + SimpleReply(0, 2, "x"));
  }
  EXPECT_GT(ended_early, 100) << "the bytes were not hostile";
}

// Every other page is a hole, so that a view has more pieces than one send takes.
TEST(ConnectionTest, AViewOfTooManyPiecesIsReadIntoTheBuffer) {
  constexpr uint32_t kPages = 1500, kLength = kPages * 4096;
  Server<Memory> server(kLength);
  std::string writes, replies, content(kLength, '\0');
  for (uint32_t page = 0; page < kPages; page += 2) {
    writes += Request(0, kWrite, page, page * 4096, 4) + "data";
    replies += SimpleReply(0, page);
    content.replace(page * 4096, 4, "data");
  }
  EXPECT_EQ(server.Serve(writes), replies);
  EXPECT_EQ(server.Serve(Request(0, kRead, 1, 0, 8) + Request(0, kRead, 2, 0, kLength) + Request(0, kRead, 3, 8192, 4)),
            SimpleReply(0, 1, content.substr(0, 8)) + SimpleReply(0, 2, content) + SimpleReply(0, 3, "data"));
}

TEST(ConnectionTest, ManyLargeReadsShareTheBoundedBuffer) {
  constexpr uint32_t kLength = 20 << 20;
  Server<Writer> server(kLength);
  const std::string zeroes(kLength, '\0');
  std::string in, out;
  for (uint64_t i = 0; i < 4; ++i) {
    in += Request(0, kRead, i, 0, kLength);
    out += SimpleReply(0, i, zeroes);
  }
  EXPECT_TRUE(server.Serve(in) == out);
}

}  // namespace
}  // namespace buse
