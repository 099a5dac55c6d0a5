// SPDX-License-Identifier: Apache-2.0

#include "buse/handshake.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace buse {
namespace {

using Replies = nbd::Terms::Replies;

template <class T>
void Put(std::string& out, T value) {
  char wire[sizeof(T)];
  nbd::Store<T>(wire, value);
  out.append(wire, sizeof(wire));
}

void PutReply(std::string& out, uint32_t option, nbd::OptionReply type, absl::string_view data = {}) {
  Put<uint64_t>(out, nbd::kOptionReplyMagic);
  Put<uint32_t>(out, option);
  Put<uint32_t>(out, type);
  Put<uint32_t>(out, data.size());
  out.append(data.data(), data.size());
}

// Takes a string behind its 32-bit length from the front of `data`. False: it is not there, or is no legal string.
bool TakeString(absl::string_view& data, absl::string_view& string) {
  if (data.size() < 4) return false;
  const uint32_t length = nbd::Load<uint32_t>(data.data());
  if (length > data.size() - 4 || length > nbd::kMaxString) return false;
  string = data.substr(4, length);
  data.remove_prefix(4 + length);
  return true;
}

// What a list of queries for metadata contexts asks for.
struct Queries {
  const char* invalid = nullptr;  // why they are
  bool none = false;
  bool base_allocation = false;
  bool base_wildcard = false;
};

Queries ParseQueries(absl::string_view data) {
  if (data.size() < 4) return {.invalid = "the request ends before the number of its queries"};
  const uint32_t count = nbd::Load<uint32_t>(data.data());
  data.remove_prefix(4);
  Queries queries;
  queries.none = count == 0;
  for (uint32_t i = 0; i < count; ++i) {
    absl::string_view query;
    if (!TakeString(data, query)) return {.invalid = "a query is longer than the request, or than 4096 bytes"};
    if (query.find(':') == absl::string_view::npos) return {.invalid = "a query without a colon after its namespace"};
    // What is not known is not an error.
    queries.base_allocation |= query == nbd::kBaseAllocation;
    queries.base_wildcard |= query == "base:";
  }
  if (!data.empty()) return {.invalid = "more data than the number of queries says"};
  return queries;
}

}  // namespace

std::string Handshake::Greeting() const {
  std::string out;
  Put<uint64_t>(out, nbd::kMagic);
  Put<uint64_t>(out, nbd::kOptionMagic);
  Put<uint16_t>(out, nbd::kFlagFixedNewstyle | nbd::kFlagNoZeroes);
  return out;
}

Handshake::Outcome Handshake::Advance(ConstBytes in, size_t& consumed, std::string& out) {
  consumed = 0;
  for (;;) {
    const size_t before = consumed;
    const ConstBytes left = in.subspan(consumed);
    Outcome outcome = Outcome::kMore;
    if (step_ == Step::kClientFlags) {
      if (left.size() < 4) return Outcome::kMore;
      consumed += 4;
      outcome = TakeClientFlags(nbd::Load<uint32_t>(left.data()));
    } else if (step_ == Step::kSkip) {
      const size_t n = std::min<size_t>(left.size(), skip_);
      consumed += n;
      skip_ -= n;
      if (skip_ > 0) return Outcome::kMore;
      step_ = Step::kOption;
      if (NeedsTls() && option_ != nbd::kOptStartTls && option_ != nbd::kOptAbort) {
        outcome = TakeWithoutTls(option_, out);
      } else {
        PutReply(out, option_, nbd::kRepErrTooBig,
                 absl::StrCat("the option's data is over ", kMaxOptionData, " bytes, the most this server reads"));
      }
    } else {
      outcome = TakeOptionHeader(left, consumed, out);
    }
    if (outcome != Outcome::kMore || consumed == before) return outcome;
  }
}

void Handshake::Secured() {
  secured_ = true;
  replies_ = Replies::kSimple;
  base_allocation_ = false;
}

nbd::Terms Handshake::terms() const {
  nbd::Terms terms = {
      .replies = replies_, .flags = exported_.flags, .max_payload = exported_.max_payload, .base_allocation = base_allocation_};
  if (replies_ != Replies::kSimple) terms.flags |= nbd::kFlagSendDf;
  if (replies_ == Replies::kExtended && base_allocation_) terms.flags |= nbd::kFlagBlockStatusPayload;
  return terms;
}

Handshake::Outcome Handshake::TakeClientFlags(uint32_t flags) {
  if ((flags & ~uint32_t{nbd::kFlagFixedNewstyle | nbd::kFlagNoZeroes}) != 0) {
    reason_ = "client flags that were not offered";
    return Outcome::kClose;
  }
  // Who does not know how to ask for TLS cannot have it.
  if ((flags & nbd::kFlagFixedNewstyle) == 0) {
    if (NeedsTls()) {
      reason_ = "a client that knows no options, so that it cannot start TLS, which this server requires";
      return Outcome::kClose;
    }
    tls_ = nbd::TlsMode::kOff;
  }
  no_zeroes_ = (flags & nbd::kFlagNoZeroes) != 0;
  step_ = Step::kOption;
  return Outcome::kMore;
}

Handshake::Outcome Handshake::TakeOptionHeader(ConstBytes in, size_t& consumed, std::string& out) {
  if (in.size() < nbd::kOptionHeaderSize) return Outcome::kMore;
  if (nbd::Load<uint64_t>(in.data()) != nbd::kOptionMagic) {
    reason_ = "an option without its magic number";
    return Outcome::kClose;
  }
  option_ = nbd::Load<uint32_t>(in.data() + 8);
  const uint32_t length = nbd::Load<uint32_t>(in.data() + 12);
  if (length > kMaxOptionData) {
    if (option_ == nbd::kOptExportName) {
      reason_ = "an export name that is too long";
      return Outcome::kClose;
    }
    // Whatever it was about to select: it replaces what was selected.
    if (option_ == nbd::kOptSetMetaContext) base_allocation_ = false;
    consumed += nbd::kOptionHeaderSize;
    skip_ = length;
    step_ = Step::kSkip;
    return Outcome::kMore;
  }
  if (in.size() - nbd::kOptionHeaderSize < length) return Outcome::kMore;
  consumed += nbd::kOptionHeaderSize + length;
  return TakeOption(option_, {reinterpret_cast<const char*>(in.data()) + nbd::kOptionHeaderSize, length}, out);
}

Handshake::Outcome Handshake::TakeOption(uint32_t option, absl::string_view data, std::string& out) {
  if (option == nbd::kOptStartTls) return TakeStartTls(data, out);
  if (NeedsTls() && option != nbd::kOptAbort) return TakeWithoutTls(option, out);
  if (Refused(option)) {
    PutReply(out, option, nbd::kRepErrUnsup, absl::StrCat("this server does not know option ", option));
    return Outcome::kMore;
  }
  switch (option) {
    case nbd::kOptExportName:
      return TakeExportName(data, out);
    case nbd::kOptAbort:
      PutReply(out, option, nbd::kRepAck);
      return Outcome::kClose;
    case nbd::kOptList:
      TakeList(data, out);
      return Outcome::kMore;
    case nbd::kOptInfo:
    case nbd::kOptGo:
      return TakeInfo(option, data, out);
    case nbd::kOptStructuredReply:
    case nbd::kOptExtendedHeaders:
      TakeStyle(option, data, out);
      return Outcome::kMore;
    default:
      TakeMetaContext(option, data, out);
      return Outcome::kMore;
  }
}

Handshake::Outcome Handshake::TakeStartTls(absl::string_view data, std::string& out) {
  const auto refuse = [&](nbd::OptionReply error, absl::string_view why) {
    PutReply(out, nbd::kOptStartTls, error, why);
    return Outcome::kMore;
  };
  if (tls_ == nbd::TlsMode::kOff) return refuse(nbd::kRepErrPolicy, "this server does not offer TLS");
  if (secured_) return refuse(nbd::kRepErrInvalid, "TLS has begun already");
  if (!data.empty()) return refuse(nbd::kRepErrInvalid, "STARTTLS takes no data");
  PutReply(out, nbd::kOptStartTls, nbd::kRepAck);
  return Outcome::kStartTls;
}

// What a client says that has not started TLS, where it must.
Handshake::Outcome Handshake::TakeWithoutTls(uint32_t option, std::string& out) {
  if (option == nbd::kOptExportName) {  // has no answer that is an error
    reason_ = "an export chosen without TLS, which this server requires";
    return Outcome::kClose;
  }
  PutReply(out, option, nbd::kRepErrTlsReqd, "this server requires TLS: connect with nbds:// or the like");
  return Outcome::kMore;
}

// Unknown, or to be as if it were.
bool Handshake::Refused(uint32_t option) const {
  switch (option) {
    case nbd::kOptExportName:
    case nbd::kOptAbort:
    case nbd::kOptList:
    case nbd::kOptInfo:
    case nbd::kOptGo:
      return false;
    case nbd::kOptStructuredReply:
      return !exported_.structured_replies;
    case nbd::kOptListMetaContext:
    case nbd::kOptSetMetaContext:
      return !exported_.structured_replies || !exported_.meta_contexts;
    case nbd::kOptExtendedHeaders:
      return !exported_.structured_replies || !exported_.extended_headers;
    default:
      return true;
  }
}

Handshake::Outcome Handshake::TakeExportName(absl::string_view name, std::string& out) {
  if (replies_ == Replies::kExtended) {
    reason_ = "an export chosen in a way that extended headers rule out";
    return Outcome::kClose;
  }
  if (!Offers(name)) {
    reason_ = "an export name that is not offered";
    return Outcome::kClose;
  }
  Put<uint64_t>(out, exported_.size);
  Put<uint16_t>(out, terms().flags);
  if (!no_zeroes_) out.append(124, '\0');
  return Outcome::kTransmit;
}

void Handshake::TakeList(absl::string_view data, std::string& out) const {
  if (!data.empty()) {
    PutReply(out, nbd::kOptList, nbd::kRepErrInvalid, "LIST takes no data");
    return;
  }
  std::string entry;
  Put<uint32_t>(entry, exported_.name.size());
  absl::StrAppend(&entry, exported_.name, exported_.description);
  PutReply(out, nbd::kOptList, nbd::kRepServer, entry);
  PutReply(out, nbd::kOptList, nbd::kRepAck);
}

Handshake::Outcome Handshake::TakeInfo(uint32_t option, absl::string_view data, std::string& out) {
  const auto invalid = [&](absl::string_view why) {
    PutReply(out, option, nbd::kRepErrInvalid, why);
    return Outcome::kMore;
  };
  absl::string_view name;
  if (!TakeString(data, name)) return invalid("the name is longer than the request, or than 4096 bytes");
  if (data.size() < 2) return invalid("the request is shorter than its fixed fields");
  if (data.size() != 2 + 2 * size_t{nbd::Load<uint16_t>(data.data())})
    return invalid("the list of information requests has another length than it says");
  if (!Offers(name)) {
    PutReply(out, option, nbd::kRepErrUnknown, "no export of that name; LIST tells which there are");
    return Outcome::kMore;
  }
  TellOf(option, data.substr(2), out);
  PutReply(out, option, nbd::kRepAck);
  return option == nbd::kOptGo ? Outcome::kTransmit : Outcome::kMore;
}

void Handshake::TellOf(uint32_t option, absl::string_view infos, std::string& out) const {
  const auto asked_for = [&](uint16_t info) {
    for (size_t at = 0; at < infos.size(); at += 2) {
      if (nbd::Load<uint16_t>(infos.data() + at) == info) return true;
    }
    return false;
  };
  std::string about;
  Put<uint16_t>(about, nbd::kInfoExport);
  Put<uint64_t>(about, exported_.size);
  Put<uint16_t>(about, terms().flags);
  PutReply(out, option, nbd::kRepInfo, about);
  const auto put_text = [&](nbd::Info info, absl::string_view text) {
    about.clear();
    Put<uint16_t>(about, info);
    about.append(text.data(), text.size());
    PutReply(out, option, nbd::kRepInfo, about);
  };
  if (asked_for(nbd::kInfoName)) put_text(nbd::kInfoName, exported_.name);
  if (asked_for(nbd::kInfoDescription)) put_text(nbd::kInfoDescription, exported_.description);
  if (asked_for(nbd::kInfoBlockSize) || exported_.min_block > 1 || exported_.max_payload < nbd::kMaxPayload) {
    about.clear();
    Put<uint16_t>(about, nbd::kInfoBlockSize);
    Put<uint32_t>(about, exported_.min_block);
    Put<uint32_t>(about, exported_.preferred_block);
    Put<uint32_t>(about, exported_.max_payload);
    PutReply(out, option, nbd::kRepInfo, about);
  }
}

// STRUCTURED_REPLY and EXTENDED_HEADERS.
void Handshake::TakeStyle(uint32_t option, absl::string_view data, std::string& out) {
  if (!data.empty()) return PutReply(out, option, nbd::kRepErrInvalid, "this option takes no data");
  if (option == nbd::kOptExtendedHeaders) {
    replies_ = Replies::kExtended;
  } else if (replies_ == Replies::kExtended) {
    return PutReply(out, option, nbd::kRepErrExtHeaderReqd, "extended headers were agreed on, which take precedence");
  } else {
    replies_ = Replies::kStructured;
  }
  PutReply(out, option, nbd::kRepAck);
}

// LIST_META_CONTEXT and SET_META_CONTEXT.
void Handshake::TakeMetaContext(uint32_t option, absl::string_view data, std::string& out) {
  const bool set = option == nbd::kOptSetMetaContext;
  // Even where it fails.
  if (set) base_allocation_ = false;
  const auto invalid = [&](absl::string_view why) { PutReply(out, option, nbd::kRepErrInvalid, why); };
  if (set && replies_ == Replies::kSimple) return invalid("structured replies or extended headers must be agreed on first");
  absl::string_view name;
  if (!TakeString(data, name)) return invalid("the name is longer than the request, or than 4096 bytes");
  const Queries queries = ParseQueries(data);
  if (queries.invalid != nullptr) return invalid(queries.invalid);
  if (!Offers(name)) {
    return PutReply(out, option, nbd::kRepErrUnknown, "no export of that name; LIST tells which there are");
  }
  const bool found = queries.base_allocation || (!set && (queries.none || queries.base_wildcard));
  if (found && exported_.has_extents) {
    std::string context;
    Put<uint32_t>(context, set ? nbd::kBaseAllocationId : 0);
    context += nbd::kBaseAllocation;
    PutReply(out, option, nbd::kRepMetaContext, context);
    base_allocation_ = set || base_allocation_;
  }
  PutReply(out, option, nbd::kRepAck);
}

bool Handshake::Offers(absl::string_view name) const { return name.empty() || name == exported_.name; }

}  // namespace buse
