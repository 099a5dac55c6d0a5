// SPDX-License-Identifier: Apache-2.0

#include "buse/handshake.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace buse {
namespace {

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
    const std::byte* at = in.data() + consumed;
    const size_t left = in.size() - consumed;
    Outcome outcome = Outcome::kMore;
    if (step_ == Step::kClientFlags) {
      if (left < 4) return Outcome::kMore;
      consumed += 4;
      outcome = TakeClientFlags(nbd::Load<uint32_t>(at));
    } else if (step_ == Step::kSkip) {
      const size_t n = std::min<size_t>(left, skip_);
      consumed += n;
      skip_ -= n;
      if (skip_ > 0) return Outcome::kMore;
      PutReply(out, option_, nbd::kRepErrTooBig,
               absl::StrCat("the option's data is over ", kMaxOptionData, " bytes, the most this server reads"));
      step_ = Step::kOption;
    } else {
      if (left < nbd::kOptionHeaderSize) return Outcome::kMore;
      if (nbd::Load<uint64_t>(at) != nbd::kOptionMagic) {
        reason_ = "an option without its magic number";
        return Outcome::kClose;
      }
      option_ = nbd::Load<uint32_t>(at + 8);
      const uint32_t length = nbd::Load<uint32_t>(at + 12);
      if (length > kMaxOptionData) {
        if (option_ == nbd::kOptExportName) {
          reason_ = "an export name that is too long";
          return Outcome::kClose;
        }
        consumed += nbd::kOptionHeaderSize;
        skip_ = length;
        step_ = Step::kSkip;
        continue;
      }
      if (left - nbd::kOptionHeaderSize < length) return Outcome::kMore;
      consumed += nbd::kOptionHeaderSize + length;
      outcome = TakeOption(option_, {reinterpret_cast<const char*>(at) + nbd::kOptionHeaderSize, length}, out);
    }
    if (outcome != Outcome::kMore) return outcome;
  }
}

Handshake::Outcome Handshake::TakeClientFlags(uint32_t flags) {
  if ((flags & ~uint32_t{nbd::kFlagFixedNewstyle | nbd::kFlagNoZeroes}) != 0) {
    reason_ = "client flags that were not offered";
    return Outcome::kClose;
  }
  no_zeroes_ = (flags & nbd::kFlagNoZeroes) != 0;
  step_ = Step::kOption;
  return Outcome::kMore;
}

Handshake::Outcome Handshake::TakeOption(uint32_t option, absl::string_view data, std::string& out) {
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
    default:
      PutReply(out, option, nbd::kRepErrUnsup, absl::StrCat("this server does not know option ", option));
      return Outcome::kMore;
  }
}

Handshake::Outcome Handshake::TakeExportName(absl::string_view name, std::string& out) {
  if (!Offers(name)) {
    reason_ = "an export name that is not offered";
    return Outcome::kClose;
  }
  Put<uint64_t>(out, exported_.size);
  Put<uint16_t>(out, exported_.flags);
  if (!no_zeroes_) out.append(124, '\0');
  return Outcome::kTransmit;
}

void Handshake::TakeList(absl::string_view data, std::string& out) {
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
  if (data.size() < 6) return invalid("the request is shorter than its fixed fields");
  const uint32_t name_length = nbd::Load<uint32_t>(data.data());
  if (name_length > data.size() - 6) return invalid("the name is longer than the request");
  const absl::string_view name = data.substr(4, name_length);
  const absl::string_view wanted = data.substr(4 + name_length);
  const uint16_t count = nbd::Load<uint16_t>(wanted.data());
  if (wanted.size() != 2 + 2 * size_t{count})
    return invalid("the list of information requests has another length than it says");
  if (!Offers(name)) {
    PutReply(out, option, nbd::kRepErrUnknown, "no export of that name; LIST tells which there are");
    return Outcome::kMore;
  }
  const auto asked_for = [&](uint16_t info) {
    for (size_t i = 0; i < count; ++i) {
      if (nbd::Load<uint16_t>(wanted.data() + 2 + 2 * i) == info) return true;
    }
    return false;
  };
  std::string about;
  Put<uint16_t>(about, nbd::kInfoExport);
  Put<uint64_t>(about, exported_.size);
  Put<uint16_t>(about, exported_.flags);
  PutReply(out, option, nbd::kRepInfo, about);
  const auto put_text = [&](nbd::Info info, absl::string_view text) {
    about.clear();
    Put<uint16_t>(about, info);
    about.append(text.data(), text.size());
    PutReply(out, option, nbd::kRepInfo, about);
  };
  if (asked_for(nbd::kInfoName)) put_text(nbd::kInfoName, exported_.name);
  if (asked_for(nbd::kInfoDescription)) put_text(nbd::kInfoDescription, exported_.description);
  if (asked_for(nbd::kInfoBlockSize) || exported_.min_block > 1) {
    about.clear();
    Put<uint16_t>(about, nbd::kInfoBlockSize);
    Put<uint32_t>(about, exported_.min_block);
    Put<uint32_t>(about, exported_.preferred_block);
    Put<uint32_t>(about, nbd::kMaxPayload);
    PutReply(out, option, nbd::kRepInfo, about);
  }
  PutReply(out, option, nbd::kRepAck);
  return option == nbd::kOptGo ? Outcome::kTransmit : Outcome::kMore;
}

bool Handshake::Offers(absl::string_view name) const { return name.empty() || name == exported_.name; }

}  // namespace buse
