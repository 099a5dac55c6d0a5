// SPDX-License-Identifier: Apache-2.0

#include "buse/handshake.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/wire.h"

namespace buse {
namespace {

using testing::Big;
using testing::ClientOption;
using testing::OptionReply;
using Outcome = Handshake::Outcome;

// Numbers are those of the specification, written out.
constexpr uint32_t kExportName = 1, kAbort = 2, kList = 3, kStartTls = 5, kInfo = 6, kGo = 7, kStructuredReply = 8;
constexpr uint32_t kListMetaContext = 9, kSetMetaContext = 10, kExtendedHeaders = 11;
constexpr uint32_t kAck = 1, kServer = 2, kRepInfo = 3, kRepMetaContext = 4;
constexpr uint32_t kErrUnsup = 0x80000001, kErrInvalid = 0x80000003, kErrUnknown = 0x80000006, kErrTooBig = 0x80000009;
constexpr uint32_t kErrExtHeaderReqd = 0x8000000a;
const std::string kFixed = Big(4, 1), kFixedNoZeroes = Big(4, 3);

const nbd::Export kExport = {.name = "disk",
                             .description = "a disk",
                             .size = 0x123456789a,
                             .flags = 0x0565,
                             .contexts = nbd::ContextSet().With(nbd::kBaseAllocation)};

struct Session {
  Outcome outcome = Outcome::kMore;
  std::string out;
  std::string unread;
  std::string reason;
  size_t chosen = 0;
  nbd::Terms terms;
};

// Feeds `in` in pieces of at most `chunk` bytes, as a connection would.
Session Talk(const std::string& in, size_t chunk, std::span<const nbd::Export* const> exports) {
  Handshake handshake(exports);
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
  session.chosen = handshake.chosen();
  session.terms = handshake.terms();
  return session;
}

Session Talk(const std::string& in, size_t chunk = SIZE_MAX, const nbd::Export& exported = kExport) {
  const nbd::Export* const exports[] = {&exported};
  return Talk(in, chunk, exports);
}

std::string InfoRequest(const std::string& name, std::initializer_list<uint16_t> wanted) {
  std::string data = Big(4, name.size()) + name + Big(2, wanted.size());
  for (uint16_t info : wanted) data += Big(2, info);
  return data;
}

const std::string kInfoExportReply = Big(2, 0) + Big(8, 0x123456789a) + Big(2, 0x0565);

TEST(HandshakeTest, GreetsAsFixedNewstyle) {
  const nbd::Export* const exports[] = {&kExport};
  EXPECT_EQ(Handshake(exports).Greeting(), "NBDMAGICIHAVEOPT" + Big(2, 3));
}

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
      InfoRequest(std::string(4097, 'x'), {}),
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
  for (uint32_t option : {0u, 4u, 12u, 99u, 0xffffffffu}) {
    const Session session = Talk(kFixed + ClientOption(option, "data") + ClientOption(kGo, InfoRequest("", {})));
    EXPECT_EQ(session.out.substr(0, 16), OptionReply(option, kErrUnsup).substr(0, 16));
    EXPECT_EQ(session.outcome, Outcome::kTransmit);
  }
}

// ---- Structured replies, extended headers, metadata contexts.

// The types of the replies to `option`, in order.
std::vector<uint32_t> Replies(const Session& session, uint32_t option) {
  std::vector<uint32_t> types;
  const auto number = [&](size_t at) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(session.out.at(at + i));
    return value;
  };
  for (size_t at = 0; at + 20 <= session.out.size(); at += 20 + number(at + 16)) {
    if (number(at + 8) == option) types.push_back(number(at + 12));
  }
  return types;
}

std::string Queries(const std::string& name, const std::vector<std::string>& queries) {
  std::string data = Big(4, name.size()) + name + Big(4, queries.size());
  for (const std::string& query : queries) data += Big(4, query.size()) + query;
  return data;
}

const std::string kStructured = ClientOption(kStructuredReply, ""), kExtended = ClientOption(kExtendedHeaders, "");
const std::string kGoDisk = ClientOption(kGo, InfoRequest("disk", {}));

TEST(HandshakeTest, StructuredRepliesAreAgreedOn) {
  const Session session = Talk(kFixed + kStructured + kGoDisk);
  EXPECT_EQ(session.out.substr(0, 20), OptionReply(kStructuredReply, kAck));
  EXPECT_EQ(session.terms.replies, nbd::Terms::Replies::kStructured);
  EXPECT_EQ(session.terms.flags, 0x0565 | 0x80) << "DF";
  EXPECT_NE(session.out.find(Big(2, 0) + Big(8, 0x123456789a) + Big(2, 0x0565 | 0x80)), std::string::npos);
  EXPECT_EQ(Talk(kFixedNoZeroes + kStructured + ClientOption(kExportName, "")).out,
            OptionReply(kStructuredReply, kAck) + Big(8, 0x123456789a) + Big(2, 0x0565 | 0x80))
      << "the old way to choose an export tells of DF too";
  EXPECT_EQ(Talk(kFixed + kGoDisk).terms.flags, 0x0565) << "no DF without structured replies";
}

TEST(HandshakeTest, ExtendedHeadersAreAgreedOn) {
  const Session session = Talk(kFixed + kExtended + kGoDisk);
  EXPECT_EQ(session.out.substr(0, 20), OptionReply(kExtendedHeaders, kAck));
  EXPECT_EQ(session.terms.replies, nbd::Terms::Replies::kExtended);
  EXPECT_EQ(session.terms.flags, 0x0565 | 0x80) << "DF, and without a context no BLOCK_STATUS_PAYLOAD";
  EXPECT_EQ(Talk(kFixed + kStructured + kExtended + kGoDisk).terms.replies, nbd::Terms::Replies::kExtended);
}

TEST(HandshakeTest, ExtendedHeadersTakePrecedence) {
  const Session session = Talk(kFixed + kExtended + kStructured + kGoDisk);
  EXPECT_EQ(Replies(session, kStructuredReply), std::vector<uint32_t>{kErrExtHeaderReqd});
  EXPECT_EQ(session.terms.replies, nbd::Terms::Replies::kExtended);
}

TEST(HandshakeTest, ExtendedHeadersRuleOutExportName) {
  const Session session = Talk(kFixed + kExtended + ClientOption(kExportName, "disk"));
  EXPECT_EQ(session.outcome, Outcome::kClose);
  EXPECT_NE(session.reason, "");
}

TEST(HandshakeTest, StylesTakeNoData) {
  for (uint32_t option : {kStructuredReply, kExtendedHeaders}) {
    const Session session = Talk(kFixed + ClientOption(option, "x") + kGoDisk);
    EXPECT_EQ(Replies(session, option), std::vector<uint32_t>{kErrInvalid});
    EXPECT_EQ(session.terms.replies, nbd::Terms::Replies::kSimple);
  }
}

TEST(HandshakeTest, ContextsAreListed) {
  const std::string listed = OptionReply(kListMetaContext, kRepMetaContext, Big(4, 0) + "base:allocation");
  const std::string ack = OptionReply(kListMetaContext, kAck);
  const auto list = [](const std::vector<std::string>& queries, const nbd::Export& exported = kExport) {
    return Talk(kFixed + kStructured + ClientOption(kListMetaContext, Queries("disk", queries)), SIZE_MAX, exported)
        .out.substr(20);
  };
  EXPECT_EQ(list({}), listed + ack);
  EXPECT_EQ(list({"base:"}), listed + ack);
  EXPECT_EQ(list({"base:allocation"}), listed + ack);
  EXPECT_EQ(list({"base:", "base:allocation", "base:allocation"}), listed + ack) << "once";
  for (const char* query : {"base:other", "base:allocation2", "qemu:", "qemu:dirty-bitmap:x", "x-thing:y", "BASE:"}) {
    EXPECT_EQ(list({query}), ack) << query;
  }
  nbd::Export mute = kExport;
  mute.contexts = {};
  EXPECT_EQ(list({}, mute), ack);
  EXPECT_EQ(list({"base:allocation"}, mute), ack);
}

const nbd::Export kCaching = [] {
  nbd::Export exported = kExport;
  exported.contexts.Add(nbd::kBuseCache);
  return exported;
}();

TEST(HandshakeTest, ContextsOfTwoNamespacesAreListed) {
  const std::string allocation = OptionReply(kListMetaContext, kRepMetaContext, Big(4, 0) + "base:allocation");
  const std::string cache = OptionReply(kListMetaContext, kRepMetaContext, Big(4, 0) + "buse:cache");
  const std::string ack = OptionReply(kListMetaContext, kAck);
  const auto list = [](const std::vector<std::string>& queries, const nbd::Export& exported = kCaching) {
    return Talk(kFixed + kStructured + ClientOption(kListMetaContext, Queries("disk", queries)), SIZE_MAX, exported)
        .out.substr(20);
  };
  EXPECT_EQ(list({}), allocation + cache + ack) << "all";
  EXPECT_EQ(list({"buse:"}), cache + ack);
  EXPECT_EQ(list({"buse:cache"}), cache + ack);
  EXPECT_EQ(list({"base:"}), allocation + ack);
  EXPECT_EQ(list({"base:", "buse:"}), allocation + cache + ack);
  EXPECT_EQ(list({"buse:cache", "base:allocation", "buse:cache", "buse:"}), allocation + cache + ack) << "each once";
  for (const char* query : {"buse:dirty", "buse:cache2", "buse:cach", "BUSE:", "bus:", "cache:", "base:cache"}) {
    EXPECT_EQ(list({query}), ack) << query;
  }
  for (const char* query : {"buse:", "buse:cache"}) EXPECT_EQ(list({query}, kExport), ack) << "nothing is known there";
}

TEST(HandshakeTest, ContextsOfTwoNamespacesAreSet) {
  const std::string allocation = OptionReply(kSetMetaContext, kRepMetaContext, Big(4, 1) + "base:allocation");
  const std::string cache = OptionReply(kSetMetaContext, kRepMetaContext, Big(4, 2) + "buse:cache");
  const std::string ack = OptionReply(kSetMetaContext, kAck);
  struct Row {
    std::vector<std::string> queries;
    std::string told;
    bool has_allocation, has_cache;
  };
  for (const Row& row :
       {Row{{"buse:cache"}, cache, false, true}, Row{{"buse:cache", "base:allocation"}, allocation + cache, true, true},
        Row{{"base:allocation"}, allocation, true, false}, Row{{"buse:"}, "", false, false},
        Row{{"buse:", "base:allocation"}, allocation, true, false}, Row{{"buse:other"}, "", false, false}}) {
    const Session session =
        Talk(kFixed + kExtended + ClientOption(kSetMetaContext, Queries("disk", row.queries)) + kGoDisk, SIZE_MAX, kCaching);
    EXPECT_EQ(session.out.substr(20, row.told.size() + ack.size()), row.told + ack);
    EXPECT_EQ(session.terms.contexts.has(nbd::kBaseAllocation), row.has_allocation);
    EXPECT_EQ(session.terms.contexts.has(nbd::kBuseCache), row.has_cache);
    EXPECT_EQ((session.terms.flags & 0x1000) != 0, row.has_allocation || row.has_cache) << "BLOCK_STATUS_PAYLOAD";
  }
  const Session without = Talk(kFixed + kExtended + ClientOption(kSetMetaContext, Queries("disk", {"buse:cache"})) + kGoDisk);
  EXPECT_EQ(without.out.substr(20, ack.size()), ack);
  EXPECT_TRUE(without.terms.contexts.empty()) << "an export that knows nothing of it";
}

TEST(HandshakeTest, ContextsAreSet) {
  const auto set = [](const std::vector<std::string>& queries) {
    return Talk(kFixed + kStructured + ClientOption(kSetMetaContext, Queries("disk", queries)) + kGoDisk);
  };
  const Session session = set({"base:allocation", "base:allocation"});
  EXPECT_EQ(session.out.substr(20, 59),
            OptionReply(kSetMetaContext, kRepMetaContext, Big(4, 1) + "base:allocation") + OptionReply(kSetMetaContext, kAck));
  EXPECT_TRUE(session.terms.contexts.has(nbd::kBaseAllocation));
  for (const std::vector<std::string>& queries :
       {std::vector<std::string>{}, {"base:"}, {"base:other"}, {"qemu:allocation-depth"}}) {
    const Session none = set(queries);
    EXPECT_EQ(Replies(none, kSetMetaContext), std::vector<uint32_t>{kAck});
    EXPECT_FALSE(none.terms.contexts.has(nbd::kBaseAllocation));
  }
  const Session wide = Talk(kFixed + kExtended + ClientOption(kSetMetaContext, Queries("", {"base:allocation"})) + kGoDisk);
  EXPECT_TRUE(wide.terms.contexts.has(nbd::kBaseAllocation));
  EXPECT_EQ(wide.terms.flags, 0x0565 | 0x80 | 0x1000) << "DF and BLOCK_STATUS_PAYLOAD";
}

TEST(HandshakeTest, EachSetReplacesTheOneBeforeEvenWhereItFails) {
  const std::string good = ClientOption(kSetMetaContext, Queries("disk", {"base:allocation"}));
  const std::string others[] = {
      ClientOption(kSetMetaContext, Queries("disk", {})),
      ClientOption(kSetMetaContext, Queries("disk", {"base:"})),
      ClientOption(kSetMetaContext, Queries("none", {"base:allocation"})),
      ClientOption(kSetMetaContext, "x"),
      ClientOption(kSetMetaContext, std::string(9000, 'x')),
  };
  for (const std::string& other : others) {
    EXPECT_FALSE(Talk(kFixed + kStructured + good + other + kGoDisk).terms.contexts.has(nbd::kBaseAllocation));
    EXPECT_TRUE(Talk(kFixed + kStructured + other + good + kGoDisk).terms.contexts.has(nbd::kBaseAllocation));
  }
  EXPECT_TRUE(Talk(kFixed + kStructured + good + ClientOption(kListMetaContext, Queries("disk", {})) + kGoDisk)
                  .terms.contexts.has(nbd::kBaseAllocation))
      << "a list changes nothing";
}

TEST(HandshakeTest, ContextsNeedStructuredReplies) {
  const Session session = Talk(kFixed + ClientOption(kSetMetaContext, Queries("disk", {"base:allocation"})) + kGoDisk);
  EXPECT_EQ(Replies(session, kSetMetaContext), std::vector<uint32_t>{kErrInvalid});
  EXPECT_FALSE(session.terms.contexts.has(nbd::kBaseAllocation));
}

TEST(HandshakeTest, ContextsOfAnUnknownExportAreAnError) {
  for (uint32_t option : {kListMetaContext, kSetMetaContext}) {
    const Session session = Talk(kFixed + kStructured + ClientOption(option, Queries("other", {"base:allocation"})) + kGoDisk);
    EXPECT_EQ(Replies(session, option), std::vector<uint32_t>{kErrUnknown});
    EXPECT_EQ(session.outcome, Outcome::kTransmit);
  }
}

TEST(HandshakeTest, MalformedQueriesAreInvalidAndTheSessionGoesOn) {
  const std::string good = Queries("disk", {"base:allocation"});
  const std::string malformed[] = {
      "",
      good.substr(0, 3),
      good.substr(0, 8),
      good.substr(0, 11),
      good.substr(0, good.size() - 1),
      good + "x",
      Big(4, 0xffffffff) + "disk" + Big(4, 0),
      Queries(std::string(4097, 'x'), {}),
      Big(4, 4) + "disk" + Big(4, 1),
      Big(4, 4) + "disk" + Big(4, 0xffffffff) + Big(4, 5) + "base:",
      Big(4, 4) + "disk" + Big(4, 1) + Big(4, 0xffffffff) + "base:",
      Queries("disk", {"no colon"}),
      Queries("disk", {""}),
      Queries("disk", {"base:" + std::string(4092, 'x')}),
  };
  for (const std::string& data : malformed) {
    for (uint32_t option : {kListMetaContext, kSetMetaContext}) {
      const Session session = Talk(kFixed + kStructured + ClientOption(option, data) + kGoDisk);
      EXPECT_EQ(Replies(session, option), std::vector<uint32_t>{kErrInvalid}) << ::testing::PrintToString(data);
      EXPECT_EQ(session.outcome, Outcome::kTransmit);
    }
  }
}

// ---- Several exports.

const nbd::Export kSecond = {.name = "second", .description = "another", .size = 4096, .flags = 0x0003, .min_block = 512};
const nbd::Export* const kBoth[] = {&kExport, &kSecond};

TEST(HandshakeTest, ListNamesEveryExport) {
  EXPECT_EQ(Talk(kFixed + ClientOption(kList, ""), SIZE_MAX, kBoth).out,
            OptionReply(kList, kServer, Big(4, 4) + "diska disk") + OptionReply(kList, kServer, Big(4, 6) + "secondanother") +
                OptionReply(kList, kAck));
}

TEST(HandshakeTest, AnExportIsChosenByItsNameAndTheFirstByNone) {
  const std::string second = OptionReply(kGo, kRepInfo, Big(2, 0) + Big(8, 4096) + Big(2, 3)) +
                             OptionReply(kGo, kRepInfo, Big(2, 3) + Big(4, 512) + Big(4, 4096) + Big(4, 33554432)) +
                             OptionReply(kGo, kAck);
  const Session by_go = Talk(kFixed + ClientOption(kGo, InfoRequest("second", {})), SIZE_MAX, kBoth);
  EXPECT_EQ(by_go.out, second);
  EXPECT_EQ(by_go.chosen, 1u);
  EXPECT_EQ(by_go.terms.flags, 3);
  const Session by_name = Talk(kFixedNoZeroes + ClientOption(kExportName, "second"), SIZE_MAX, kBoth);
  EXPECT_EQ(by_name.out, Big(8, 4096) + Big(2, 3));
  EXPECT_EQ(by_name.chosen, 1u);
  EXPECT_EQ(Talk(kFixed + ClientOption(kGo, InfoRequest("", {})), SIZE_MAX, kBoth).chosen, 0u);
  EXPECT_EQ(Talk(kFixedNoZeroes + ClientOption(kExportName, ""), SIZE_MAX, kBoth).chosen, 0u);
  // INFO chooses nothing.
  const Session other = Talk(kFixed + ClientOption(kInfo, InfoRequest("second", {})) + kGoDisk, SIZE_MAX, kBoth);
  EXPECT_EQ(other.chosen, 0u);
  EXPECT_EQ(Talk(kFixed + ClientOption(kGo, InfoRequest("third", {})) + kGoDisk, SIZE_MAX, kBoth).chosen, 0u);
}

TEST(HandshakeTest, ContextsBelongToTheExportTheyWereSetFor) {
  nbd::Export second = kSecond;
  second.contexts = nbd::ContextSet().With(nbd::kBaseAllocation);
  const nbd::Export* const both[] = {&kExport, &second};
  const auto set = [](const std::string& name) { return ClientOption(kSetMetaContext, Queries(name, {"base:allocation"})); };
  const auto go = [](const std::string& name) { return ClientOption(kGo, InfoRequest(name, {})); };
  const auto has = [&](const std::string& options) {
    return Talk(kFixed + kExtended + options, SIZE_MAX, both).terms.contexts.has(nbd::kBaseAllocation);
  };
  EXPECT_TRUE(has(set("second") + go("second")));
  EXPECT_FALSE(has(set("disk") + go("second"))) << "as if none had been set";
  EXPECT_FALSE(has(set("second") + go("")));
  EXPECT_FALSE(has(set("second") + set("disk") + go("second"))) << "the last one counts";
  EXPECT_TRUE(has(set("disk") + set("second") + go("second")));
  EXPECT_FALSE(has(set("second") + ClientOption(kSetMetaContext, Queries("none", {"base:allocation"})) + go("second")));
  EXPECT_TRUE(has(set("") + go("disk"))) << "two names of one export";
  // What is told of another export does not claim them either.
  const Session session = Talk(kFixed + kExtended + set("disk") + go("second"), SIZE_MAX, both);
  EXPECT_EQ(session.terms.flags & 0x1000, 0) << "no BLOCK_STATUS_PAYLOAD";
}

TEST(HandshakeTest, AThousandQueriesFitAndEachContextIsToldOnce) {
  const std::string data = Queries("", std::vector<std::string>(900, "base:"));
  const Session session = Talk(kFixed + kStructured + ClientOption(kListMetaContext, data) + kGoDisk);
  EXPECT_EQ(Replies(session, kListMetaContext), (std::vector<uint32_t>{kRepMetaContext, kAck}));
}

TEST(HandshakeTest, WhatIsRefusedIsUnknown) {
  const std::string set = ClientOption(kSetMetaContext, Queries("disk", {"base:allocation"}));
  const std::string list = ClientOption(kListMetaContext, Queries("disk", {}));
  const std::string in = kFixed + kStructured + list + set + kExtended + kGoDisk;
  const auto refused = [&](const nbd::Export& exported) {
    const Session session = Talk(in, SIZE_MAX, exported);
    EXPECT_EQ(session.outcome, Outcome::kTransmit);
    std::vector<uint32_t> options;
    for (uint32_t option : {kStructuredReply, kListMetaContext, kSetMetaContext, kExtendedHeaders}) {
      if (Replies(session, option) == std::vector<uint32_t>{kErrUnsup}) options.push_back(option);
    }
    return options;
  };
  nbd::Export exported = kExport;
  EXPECT_EQ(refused(exported), (std::vector<uint32_t>{}));
  exported.extended_headers = false;
  EXPECT_EQ(refused(exported), (std::vector<uint32_t>{kExtendedHeaders}));
  exported.meta_contexts = false;
  EXPECT_EQ(refused(exported), (std::vector<uint32_t>{kListMetaContext, kSetMetaContext, kExtendedHeaders}));
  exported = kExport;
  exported.structured_replies = false;
  EXPECT_EQ(refused(exported), (std::vector<uint32_t>{kStructuredReply, kListMetaContext, kSetMetaContext, kExtendedHeaders}))
      << "what builds on them goes with them";
}

// ---- TLS.

using nbd::TlsMode;

constexpr uint32_t kErrPolicy = 0x80000002, kErrTlsReqd = 0x80000005;

// What `before` says in plain text, and then under TLS what `after` says.
struct Secured {
  Outcome outcome = Outcome::kMore;  // of the plain text
  std::string plain;                 // what was answered to it
  size_t unread = 0;                 // of the plain text
  Session under_tls;
};
Secured StartTls(TlsMode mode, const std::string& before, const std::string& after, const nbd::Export& exported = kExport) {
  const nbd::Export* const exports[] = {&exported};
  Handshake handshake(exports, mode);
  Secured secured;
  size_t consumed = 0;
  secured.outcome = handshake.Advance(std::as_bytes(std::span(before)), consumed, secured.plain);
  secured.unread = before.size() - consumed;
  if (secured.outcome != Outcome::kStartTls) return secured;
  handshake.Secured();
  Session& session = secured.under_tls;
  session.outcome = handshake.Advance(std::as_bytes(std::span(after)), consumed, session.out);
  session.reason = std::string(handshake.reason());
  session.terms = handshake.terms();
  return secured;
}

const std::string kStart = ClientOption(kStartTls, ""), kStarted = OptionReply(kStartTls, kAck);

TEST(HandshakeTest, WithoutTlsStartTlsIsRefusedAndTheSessionGoesOn) {
  for (const std::string& start : {kStart, ClientOption(kStartTls, "x")}) {
    const Session session = Talk(kFixed + start + kGoDisk);
    EXPECT_EQ(Replies(session, kStartTls), std::vector<uint32_t>{kErrPolicy});
    EXPECT_EQ(session.outcome, Outcome::kTransmit);
    EXPECT_EQ(session.out.find(Big(4, kErrTlsReqd)), std::string::npos);
  }
}

TEST(HandshakeTest, RequiredTlsIsAskedForByEveryOptionButAbort) {
  for (uint32_t option : {0u, 3u, 4u, 6u, 7u, 8u, 9u, 10u, 11u, 12u, 99u}) {
    for (const std::string& data : {std::string(), InfoRequest("disk", {}), std::string(9000, 'x')}) {
      const Secured session = StartTls(TlsMode::kRequire, kFixed + ClientOption(option, data) + kStart, kGoDisk);
      EXPECT_EQ(session.plain.substr(0, 16), OptionReply(option, kErrTlsReqd).substr(0, 16)) << option;
      EXPECT_EQ(session.outcome, Outcome::kStartTls) << option;
      EXPECT_EQ(session.under_tls.outcome, Outcome::kTransmit) << option;
      EXPECT_EQ(session.plain.find("disk"), std::string::npos) << "what there is must not be told";
    }
  }
  const Secured abort = StartTls(TlsMode::kRequire, kFixed + ClientOption(kAbort, "bye"), "");
  EXPECT_EQ(abort.plain, OptionReply(kAbort, kAck));
  EXPECT_EQ(abort.outcome, Outcome::kClose);
}

TEST(HandshakeTest, RequiredTlsEndsTheSessionOfAnExportNameWithoutIt) {
  for (const char* name : {"", "disk", "other"}) {
    const nbd::Export* const exports[] = {&kExport};
    Handshake handshake(exports, TlsMode::kRequire);
    std::string out, in = kFixed + ClientOption(kExportName, name);
    size_t consumed = 0;
    EXPECT_EQ(handshake.Advance(std::as_bytes(std::span(in)), consumed, out), Outcome::kClose);
    EXPECT_EQ(out, "");
    EXPECT_NE(handshake.reason(), "");
  }
}

TEST(HandshakeTest, OfferedTlsIsTheClientsChoice) {
  for (const std::string& options : {std::string(), ClientOption(kList, ""), kStructured}) {
    EXPECT_EQ(StartTls(TlsMode::kOn, kFixed + options + kGoDisk, "").outcome, Outcome::kTransmit);
    const Secured session = StartTls(TlsMode::kOn, kFixed + options + kStart, kGoDisk);
    EXPECT_EQ(session.outcome, Outcome::kStartTls);
    EXPECT_EQ(session.plain.substr(session.plain.size() - 20), kStarted);
    EXPECT_EQ(session.under_tls.outcome, Outcome::kTransmit);
  }
  EXPECT_EQ(StartTls(TlsMode::kOn, kFixed + ClientOption(kExportName, "disk"), "").outcome, Outcome::kTransmit);
}

TEST(HandshakeTest, UnderTlsAllOptionsWorkAndAskForItNoMore) {
  for (TlsMode mode : {TlsMode::kOn, TlsMode::kRequire}) {
    const std::string options = ClientOption(kList, "") + ClientOption(kInfo, InfoRequest("", {1, 2, 3})) + kStructured +
                                ClientOption(kListMetaContext, Queries("disk", {})) +
                                ClientOption(kSetMetaContext, Queries("disk", {"base:allocation"}));
    for (const std::string& choice : {kGoDisk, ClientOption(kExportName, "disk")}) {
      const Secured secured = StartTls(mode, kFixedNoZeroes + kStart, options + choice);
      EXPECT_EQ(secured.under_tls.outcome, Outcome::kTransmit);
      EXPECT_EQ(secured.under_tls.out, Talk(kFixedNoZeroes + options + choice).out) << "the very same as without TLS";
    }
  }
}

TEST(HandshakeTest, StartTlsTwiceIsInvalidAndTheSessionGoesOn) {
  for (TlsMode mode : {TlsMode::kOn, TlsMode::kRequire}) {
    const Secured session = StartTls(mode, kFixed + kStart, kStart + kGoDisk);
    EXPECT_EQ(Replies(session.under_tls, kStartTls), std::vector<uint32_t>{kErrInvalid});
    EXPECT_EQ(session.under_tls.outcome, Outcome::kTransmit);
  }
}

TEST(HandshakeTest, StartTlsWithDataIsInvalidAndStartsNothing) {
  for (TlsMode mode : {TlsMode::kOn, TlsMode::kRequire}) {
    const Secured session = StartTls(mode, kFixed + ClientOption(kStartTls, "x") + kStart, kGoDisk);
    EXPECT_EQ(session.plain.substr(0, 16), OptionReply(kStartTls, kErrInvalid).substr(0, 16));
    EXPECT_EQ(session.plain.substr(session.plain.size() - 20), kStarted) << "and then without";
    EXPECT_EQ(session.under_tls.outcome, Outcome::kTransmit);
  }
}

TEST(HandshakeTest, TlsForgetsWhatWasAgreedOnBefore) {
  const std::string context = ClientOption(kSetMetaContext, Queries("disk", {"base:allocation"}));
  for (const std::string& style : {kStructured, kExtended}) {
    const Secured session = StartTls(TlsMode::kOn, kFixed + style + context + kStart, kGoDisk);
    EXPECT_EQ(session.under_tls.terms.replies, nbd::Terms::Replies::kSimple);
    EXPECT_TRUE(session.under_tls.terms.contexts.empty());
    EXPECT_EQ(session.under_tls.out.substr(20, 12), kInfoExportReply) << "no flag of what was agreed on before";
    // A style that was agreed on rules nothing out: EXPORT_NAME goes as well as STRUCTURED_REPLY.
    EXPECT_EQ(StartTls(TlsMode::kOn, kFixed + style + kStart, kStructured + kGoDisk).under_tls.terms.replies,
              nbd::Terms::Replies::kStructured);
    EXPECT_EQ(StartTls(TlsMode::kOn, kFixed + style + kStart, ClientOption(kExportName, "")).under_tls.outcome,
              Outcome::kTransmit);
  }
}

TEST(HandshakeTest, WhatComesBehindStartTlsIsLeftUnread) {
  const Secured session = StartTls(TlsMode::kOn, kFixed + kStart + kStructured + kGoDisk, "");
  EXPECT_EQ(session.outcome, Outcome::kStartTls);
  EXPECT_EQ(session.plain, kStarted);
  EXPECT_EQ(session.unread, kStructured.size() + kGoDisk.size());
}

TEST(HandshakeTest, AClientThatKnowsNoOptionsGetsNoTls) {
  // Such a client is served as if there were no TLS, which is nothing where TLS is required.
  for (uint32_t flags : {0u, 2u}) {
    const Secured offered = StartTls(TlsMode::kOn, Big(4, flags) + kStart + ClientOption(kExportName, ""), "");
    EXPECT_EQ(offered.plain.substr(0, 16), OptionReply(kStartTls, kErrPolicy).substr(0, 16));
    EXPECT_EQ(offered.outcome, Outcome::kTransmit);
    const Secured required = StartTls(TlsMode::kRequire, Big(4, flags) + kStart + ClientOption(kExportName, ""), "");
    EXPECT_EQ(required.plain, "");
    EXPECT_EQ(required.outcome, Outcome::kClose);
  }
}

// ---- Limits, and ends.

TEST(HandshakeTest, ASmallerLargestPayloadIsToldUnasked) {
  nbd::Export exported = kExport;
  exported.max_payload = 1 << 20;
  const Session session = Talk(kFixed + kGoDisk, SIZE_MAX, exported);
  EXPECT_NE(session.out.find(Big(2, 3) + Big(4, 1) + Big(4, 4096) + Big(4, 1 << 20)), std::string::npos);
  EXPECT_EQ(session.terms.max_payload, 1u << 20);
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
                         kExtended + ClientOption(kSetMetaContext, Queries("disk", {"base:allocation"})) +
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
