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
  nbd::ContextSet named;
  nbd::ContextSet matched;  // by a namespace alone, as in "base:"
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
    const size_t colon = query.find(':');
    if (colon == absl::string_view::npos) return {.invalid = "a query without a colon after its namespace"};
    // What is not known is not an error.
    for (const nbd::Context& context : nbd::kContexts) {
      const absl::string_view name = context.name;
      if (query == name) queries.named.Add(context.id);
      if (colon + 1 == query.size() && name.substr(0, query.size()) == query) queries.matched.Add(context.id);
    }
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
  selected_ = {};
}

nbd::Terms Handshake::TermsOf(size_t which) const {
  const nbd::Export& exported = *exports_[which];
  nbd::Terms terms = {.replies = replies_, .flags = exported.flags, .max_payload = exported.max_payload};
  if (selected_of_ == which) terms.contexts = selected_;
  if (exported.resize_limit > 0) terms.flags |= nbd::kFlagSendResize;
  if (replies_ != Replies::kSimple) terms.flags |= nbd::kFlagSendDf;
  if (replies_ == Replies::kExtended && !terms.contexts.empty()) terms.flags |= nbd::kFlagBlockStatusPayload;
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
    if (option_ == nbd::kOptSetMetaContext) selected_ = {};
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
  const nbd::Export& any = *exports_.front();
  switch (option) {
    case nbd::kOptExportName:
    case nbd::kOptAbort:
    case nbd::kOptList:
    case nbd::kOptInfo:
    case nbd::kOptGo:
      return false;
    case nbd::kOptStructuredReply:
      return !any.structured_replies;
    case nbd::kOptListMetaContext:
    case nbd::kOptSetMetaContext:
      return !any.structured_replies || !any.meta_contexts;
    case nbd::kOptExtendedHeaders:
      return !any.structured_replies || !any.extended_headers;
    default:
      return true;
  }
}

Handshake::Outcome Handshake::TakeExportName(absl::string_view name, std::string& out) {
  if (replies_ == Replies::kExtended) {
    reason_ = "an export chosen in a way that extended headers rule out";
    return Outcome::kClose;
  }
  const std::optional<size_t> found = Find(name);
  if (!found) {
    reason_ = "an export name that is not offered";
    return Outcome::kClose;
  }
  chosen_ = *found;
  Put<uint64_t>(out, exports_[chosen_]->LoadSize());
  Put<uint16_t>(out, terms().flags);
  if (!no_zeroes_) out.append(124, '\0');
  return Outcome::kTransmit;
}

void Handshake::TakeList(absl::string_view data, std::string& out) const {
  if (!data.empty()) {
    PutReply(out, nbd::kOptList, nbd::kRepErrInvalid, "LIST takes no data");
    return;
  }
  for (const nbd::Export* exported : exports_) {
    std::string entry;
    Put<uint32_t>(entry, exported->name.size());
    absl::StrAppend(&entry, exported->name, exported->description);
    PutReply(out, nbd::kOptList, nbd::kRepServer, entry);
  }
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
  const std::optional<size_t> found = Find(name);
  if (!found) {
    PutReply(out, option, nbd::kRepErrUnknown, "no export of that name; LIST tells which there are");
    return Outcome::kMore;
  }
  TellOf(*found, option, data.substr(2), out);
  PutReply(out, option, nbd::kRepAck);
  if (option != nbd::kOptGo) return Outcome::kMore;
  chosen_ = *found;
  return Outcome::kTransmit;
}

void Handshake::TellOf(size_t which, uint32_t option, absl::string_view infos, std::string& out) const {
  const nbd::Export& exported = *exports_[which];
  const auto asked_for = [&](uint16_t info) {
    for (size_t at = 0; at < infos.size(); at += 2) {
      if (nbd::Load<uint16_t>(infos.data() + at) == info) return true;
    }
    return false;
  };
  std::string about;
  Put<uint16_t>(about, nbd::kInfoExport);
  Put<uint64_t>(about, exported.LoadSize());
  Put<uint16_t>(about, TermsOf(which).flags);
  PutReply(out, option, nbd::kRepInfo, about);
  const auto put_text = [&](nbd::Info info, absl::string_view text) {
    about.clear();
    Put<uint16_t>(about, info);
    about.append(text.data(), text.size());
    PutReply(out, option, nbd::kRepInfo, about);
  };
  if (asked_for(nbd::kInfoName)) put_text(nbd::kInfoName, exported.name);
  if (asked_for(nbd::kInfoDescription)) put_text(nbd::kInfoDescription, exported.description);
  if (asked_for(nbd::kInfoBlockSize) || exported.min_block > 1 || exported.max_payload < nbd::kMaxPayload) {
    about.clear();
    Put<uint16_t>(about, nbd::kInfoBlockSize);
    Put<uint32_t>(about, exported.min_block);
    Put<uint32_t>(about, exported.preferred_block);
    Put<uint32_t>(about, exported.max_payload);
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
  if (set) selected_ = {};
  const auto invalid = [&](absl::string_view why) { PutReply(out, option, nbd::kRepErrInvalid, why); };
  if (set && replies_ == Replies::kSimple) return invalid("structured replies or extended headers must be agreed on first");
  absl::string_view name;
  if (!TakeString(data, name)) return invalid("the name is longer than the request, or than 4096 bytes");
  const Queries queries = ParseQueries(data);
  if (queries.invalid != nullptr) return invalid(queries.invalid);
  const std::optional<size_t> found = Find(name);
  if (!found) return PutReply(out, option, nbd::kRepErrUnknown, "no export of that name; LIST tells which there are");
  if (set) selected_of_ = *found;
  for (const nbd::Context& context : nbd::kContexts) {
    if (!exports_[*found]->contexts.has(context.id)) continue;
    // A namespace alone lists, and selects nothing.
    const bool listed = !set && (queries.none || queries.matched.has(context.id));
    if (!listed && !queries.named.has(context.id)) continue;
    std::string entry;
    Put<uint32_t>(entry, set ? uint32_t{context.id} : 0);
    absl::StrAppend(&entry, context.name);
    PutReply(out, option, nbd::kRepMetaContext, entry);
    if (set) selected_.Add(context.id);
  }
  PutReply(out, option, nbd::kRepAck);
}

std::optional<size_t> Handshake::Find(absl::string_view name) const {
  if (name.empty()) return 0;
  for (size_t i = 0; i < exports_.size(); ++i) {
    if (exports_[i]->name == name) return i;
  }
  return std::nullopt;
}

}  // namespace buse
