// SPDX-License-Identifier: Apache-2.0

#include "buse/handshake.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Big;
using testing::ClientOption;
using testing::OptionReply;
using Outcome = Handshake::Outcome;

// Numbers are those of the specification, written out.
constexpr uint32_t kExportName = 1, kAbort = 2, kList = 3, kInfo = 6, kGo = 7;
constexpr uint32_t kAck = 1, kServer = 2, kRepInfo = 3;
constexpr uint32_t kErrUnsup = 0x80000001, kErrInvalid = 0x80000003, kErrUnknown = 0x80000006, kErrTooBig = 0x80000009;
const std::string kFixed = Big(4, 1), kFixedNoZeroes = Big(4, 3);

const nbd::Export kExport = {.name = "disk", .description = "a disk", .size = 0x123456789a, .flags = 0x0565};

struct Session {
  Outcome outcome = Outcome::kMore;
  std::string out;
  std::string unread;
  std::string reason;
};

// Feeds `in` in pieces of at most `chunk` bytes, as a connection would.
Session Talk(const std::string& in, size_t chunk = SIZE_MAX, const nbd::Export& exported = kExport) {
  Handshake handshake(exported);
  Session session;
  std::string buffer;
  size_t fed = 0;
  while (session.outcome == Outcome::kMore && fed < in.size()) {
    const size_t n = std::min(chunk, in.size() - fed);
    buffer += in.substr(fed, n);
    fed += n;
    size_t consumed = 0;
    session.outcome = handshake.Advance(std::as_bytes(std::span(buffer)), consumed, session.out);
    buffer.erase(0, consumed);
    EXPECT_LE(buffer.size(), Handshake::kBufferSize);
  }
  session.unread = buffer + in.substr(fed);
  session.reason = std::string(handshake.reason());
  return session;
}

std::string InfoRequest(const std::string& name, std::initializer_list<uint16_t> wanted) {
  std::string data = Big(4, name.size()) + name + Big(2, wanted.size());
  for (uint16_t info : wanted) data += Big(2, info);
  return data;
}

const std::string kInfoExportReply = Big(2, 0) + Big(8, 0x123456789a) + Big(2, 0x0565);

TEST(HandshakeTest, GreetsAsFixedNewstyle) { EXPECT_EQ(Handshake(kExport).Greeting(), "NBDMAGICIHAVEOPT" + Big(2, 3)); }

TEST(HandshakeTest, UnknownClientFlagsEndTheSession) {
  const Session session = Talk(Big(4, 4) + ClientOption(kList, ""));
  EXPECT_EQ(session.outcome, Outcome::kClose);
  EXPECT_EQ(session.out, "");
  EXPECT_NE(session.reason, "");
}

TEST(HandshakeTest, ExportNameIsAnsweredWithAndWithoutZeroes) {
  const std::string head = Big(8, 0x123456789a) + Big(2, 0x0565);
  EXPECT_EQ(Talk(kFixed + ClientOption(kExportName, "disk")).out, head + std::string(124, '\0'));
  EXPECT_EQ(Talk(kFixedNoZeroes + ClientOption(kExportName, "disk")).out, head);
  EXPECT_EQ(Talk(kFixedNoZeroes + ClientOption(kExportName, "disk")).outcome, Outcome::kTransmit);
  EXPECT_EQ(Talk(kFixedNoZeroes + ClientOption(kExportName, "")).outcome, Outcome::kTransmit) << "the default export";
  // A client of the old newstyle sends no flag at all.
  EXPECT_EQ(Talk(Big(4, 0) + ClientOption(kExportName, "disk")).outcome, Outcome::kTransmit);
}

TEST(HandshakeTest, AnUnknownExportNameEndsTheSession) {
  for (const std::string& name :
       {std::string("other"), std::string("disk "), std::string(4096, 'x'), std::string(1 << 20, 'x')}) {
    const Session session = Talk(kFixed + ClientOption(kExportName, name), 4096);
    EXPECT_EQ(session.outcome, Outcome::kClose);
    EXPECT_EQ(session.out, "");
  }
}

TEST(HandshakeTest, ListNamesTheExport) {
  const Session session = Talk(kFixed + ClientOption(kList, ""));
  EXPECT_EQ(session.outcome, Outcome::kMore);
  EXPECT_EQ(session.out, OptionReply(kList, kServer, Big(4, 4) + "diska disk") + OptionReply(kList, kAck));
}

TEST(HandshakeTest, ListWithDataIsInvalid) {
  EXPECT_EQ(Talk(kFixed + ClientOption(kList, "x")).out.substr(0, 16), OptionReply(kList, kErrInvalid).substr(0, 16));
}

TEST(HandshakeTest, GoTellsTheExportAndBeginsTransmission) {
  const Session session = Talk(kFixed + ClientOption(kGo, InfoRequest("disk", {})) + "rest");
  EXPECT_EQ(session.outcome, Outcome::kTransmit);
  EXPECT_EQ(session.out, OptionReply(kGo, kRepInfo, kInfoExportReply) + OptionReply(kGo, kAck));
  EXPECT_EQ(session.unread, "rest");
}

TEST(HandshakeTest, InfoTellsWhatIsAskedForAndGoesOn) {
  const Session session = Talk(kFixed + ClientOption(kInfo, InfoRequest("", {1, 2, 3, 77})));
  EXPECT_EQ(session.outcome, Outcome::kMore);
  EXPECT_EQ(session.out, OptionReply(kInfo, kRepInfo, kInfoExportReply) + OptionReply(kInfo, kRepInfo, Big(2, 1) + "disk") +
                             OptionReply(kInfo, kRepInfo, Big(2, 2) + "a disk") +
                             OptionReply(kInfo, kRepInfo, Big(2, 3) + Big(4, 1) + Big(4, 4096) + Big(4, 33554432)) +
                             OptionReply(kInfo, kAck));
}

TEST(HandshakeTest, BlockSizesOtherThanTheDefaultAreToldUnasked) {
  nbd::Export exported = kExport;
  exported.min_block = 512;
  EXPECT_NE(Talk(kFixed + ClientOption(kGo, InfoRequest("disk", {})), SIZE_MAX, exported)
                .out.find(Big(2, 3) + Big(4, 512) + Big(4, 4096) + Big(4, 33554432)),
            std::string::npos);
}

TEST(HandshakeTest, InfoOfAnUnknownNameIsAnErrorAndTheSessionGoesOn) {
  const Session session =
      Talk(kFixed + ClientOption(kGo, InfoRequest("other", {})) + ClientOption(kGo, InfoRequest("disk", {})));
  EXPECT_EQ(session.out.substr(0, 16), OptionReply(kGo, kErrUnknown).substr(0, 16));
  EXPECT_EQ(session.outcome, Outcome::kTransmit);
}

TEST(HandshakeTest, MalformedInfoIsInvalidAndTheSessionGoesOn) {
  const std::string good = InfoRequest("disk", {3});
  const std::string malformed[] = {
      "",
      good.substr(0, 5),
      good.substr(0, good.size() - 1),
      good + "x",
      Big(4, 0xffffffff) + "disk" + Big(2, 0),
      Big(4, 5) + "disk" + Big(2, 0),
      Big(4, 4) + "disk" + Big(2, 0xffff),
  };
  for (const std::string& data : malformed) {
    for (uint32_t option : {kInfo, kGo}) {
      const Session session = Talk(kFixed + ClientOption(option, data) + ClientOption(kAbort, ""));
      EXPECT_EQ(session.out.substr(0, 16), OptionReply(option, kErrInvalid).substr(0, 16)) << ::testing::PrintToString(data);
      EXPECT_EQ(session.outcome, Outcome::kClose);
      EXPECT_EQ(session.reason, "");
    }
  }
}

TEST(HandshakeTest, UnknownOptionsAreRefusedAndTheSessionGoesOn) {
  for (uint32_t option : {0u, 4u, 5u, 8u, 9u, 10u, 11u, 99u, 0xffffffffu}) {
    const Session session = Talk(kFixed + ClientOption(option, "data") + ClientOption(kGo, InfoRequest("", {})));
    EXPECT_EQ(session.out.substr(0, 16), OptionReply(option, kErrUnsup).substr(0, 16));
    EXPECT_EQ(session.outcome, Outcome::kTransmit);
  }
}

TEST(HandshakeTest, AbortIsAcknowledgedWhateverDataItHas) {
  for (const std::string& data : {std::string(), std::string("bye")}) {
    const Session session = Talk(kFixed + ClientOption(kAbort, data));
    EXPECT_EQ(session.outcome, Outcome::kClose);
    EXPECT_EQ(session.out, OptionReply(kAbort, kAck));
    EXPECT_EQ(session.reason, "") << "the client asked for it";
  }
}

TEST(HandshakeTest, AnOptionWithoutMagicEndsTheSession) {
  std::string bad = ClientOption(kList, "");
  bad[0] = 'X';
  const Session session = Talk(kFixed + bad);
  EXPECT_EQ(session.outcome, Outcome::kClose);
  EXPECT_EQ(session.out, "");
  EXPECT_NE(session.reason, "");
}

TEST(HandshakeTest, AnOversizedOptionIsSkippedInBoundedMemoryAndRefused) {
  const std::string huge(100000, 'x');
  const Session session = Talk(kFixed + ClientOption(kGo, huge) + ClientOption(kGo, InfoRequest("disk", {})), 4096);
  EXPECT_EQ(session.out.substr(0, 16), OptionReply(kGo, kErrTooBig).substr(0, 16));
  EXPECT_EQ(session.outcome, Outcome::kTransmit);
}

TEST(HandshakeTest, AClaimOfFourGigabytesWaitsAndKeepsNothing) {
  const std::string claim = Big(8, 0x49484156454f5054) + Big(4, kGo) + Big(4, 0xffffffff);
  const Session session = Talk(kFixed + claim + std::string(1 << 20, 'x'), 65536);
  EXPECT_EQ(session.outcome, Outcome::kMore);
  EXPECT_EQ(session.unread, "");
  EXPECT_EQ(session.out, "");
}

TEST(HandshakeTest, AByteAtATimeIsTheSameAsAllAtOnce) {
  const std::string in = kFixedNoZeroes + ClientOption(kList, "") + ClientOption(kInfo, InfoRequest("disk", {1, 2, 3})) +
                         ClientOption(42, "?") + ClientOption(kGo, std::string(9000, 'x')) +
                         ClientOption(kGo, InfoRequest("disk", {3}));
  const Session at_once = Talk(in), bytewise = Talk(in, 1);
  EXPECT_EQ(at_once.outcome, Outcome::kTransmit);
  EXPECT_EQ(bytewise.outcome, Outcome::kTransmit);
  EXPECT_EQ(at_once.out, bytewise.out);
}

TEST(HandshakeTest, EveryPrefixWaitsForMore) {
  const std::string in = kFixed + ClientOption(kGo, InfoRequest("disk", {3}));
  for (size_t n = 0; n < in.size(); ++n) EXPECT_EQ(Talk(in.substr(0, n)).outcome, Outcome::kMore) << n;
}

}  // namespace
}  // namespace buse
