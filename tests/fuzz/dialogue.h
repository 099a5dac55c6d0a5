// SPDX-License-Identifier: Apache-2.0
//
// Transmissions over any bytes, and their judgement.

#ifndef TESTS_FUZZ_DIALOGUE_H_
#define TESTS_FUZZ_DIALOGUE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "buse/connection.h"
#include "buse/negotiation.h"
#include "tests/fuzz/judge.h"
#include "tests/fuzz/target.h"
#include "tests/leaves.h"
#include "tests/wire.h"

namespace buse::testing {

// The bits of a choice.
enum DialogueChoice : uint8_t {
  kChooseStyle = 3,     // simple, structured, extended, extended
  kChooseContext = 4,   // base:allocation is selected, and buse:cache
  kChoosePieces = 8,    // what the client says arrives in small pieces
  kChooseFilled = 16,   // the disk holds data with holes in it
  kChooseDevice = 96,   // for the caller
  kChooseResize = 128,  // RESIZE is allowed
};

inline Dialogue::Style StyleOf(uint8_t choice) {
  const int style = choice & kChooseStyle;
  return style == 0 ? Dialogue::Style::kSimple : style == 1 ? Dialogue::Style::kStructured : Dialogue::Style::kExtended;
}

// What a client of the export `name` says before its requests. Contexts are selected for the export `set_for`.
inline std::string NegotiationOf(uint8_t choice, const std::string& name, const std::string& set_for) {
  std::string options = Big(4, 3);
  const Dialogue::Style style = StyleOf(choice);
  if (style == Dialogue::Style::kStructured) options += ClientOption(8, "");
  if (style == Dialogue::Style::kExtended) options += ClientOption(11, "");
  if ((choice & kChooseContext) != 0) {
    options += ClientOption(
        10, Big(4, set_for.size()) + set_for + Big(4, 2) + Big(4, 15) + "base:allocation" + Big(4, 10) + "buse:cache");
  }
  return options + ClientOption(7, Big(4, name.size()) + name + Big(2, 0));
}

// What a filled disk of `size` bytes holds: data at the beginning of every 96 KiB.
inline std::string FilledDisk(size_t size) {
  std::string disk(size, '\0');
  for (size_t at = 0; at < size; at += 96 << 10) std::fill_n(disk.begin() + at, std::min<size_t>(8192, size - at), 'd');
  return disk;
}

// An export, and what its disk should hold. Whatever is wrong ends the process.
template <Device Stack>
class JudgedExport {
 public:
  // The device is opened when the first client comes. A filled one must be one that can be written, or stand over one.
  JudgedExport(const std::string& name, uint64_t size, const typename Stack::Config& config, bool filled, uint64_t resize_limit)
      : config_(config), filled_(filled) {
    exported_.about = {.name = name,
                       .size = size,
                       .flags = nbd::TransmissionFlags<Stack>(),
                       .min_block = static_cast<uint32_t>(Stack::kBlockSize),
                       .contexts = nbd::ContextsOf<Stack>()};
    exported_.about.resize_limit = CanResize<Stack> ? resize_limit : 0;
  }

  const nbd::Export& about() const { return exported_.about; }

  // Serves a client that is to find this one as the one with the number `number` of `exports`.
  void Serve(std::span<const nbd::Export* const> exports, size_t number, uint8_t choice, const std::string& set_for,
             const std::string& requests) {
    if (!open_) Open();
    Bytestream stream = {.in = NegotiationOf(choice, exported_.about.name, set_for) + requests};
    if ((choice & kChoosePieces) != 0) stream.chunk = 17;
    ByteTransport transport(stream);
    const absl::StatusOr<std::optional<Agreement>> agreed = Negotiate(transport, exports);
    if (!agreed.ok() || !agreed->has_value()) MustBeRight("no agreement");
    if ((**agreed).which != number) MustBeRight("another export");
    const size_t negotiated = stream.out.size();
    const auto connection =
        std::make_unique<Connection<Stack, ByteTransport>>(exported_, transport, *Buffers::Create(), **agreed);
    const absl::Status status = connection->Transmit();
    dialogue_.style = StyleOf(choice);
    const bool selected =
        (choice & kChooseContext) != 0 && dialogue_.style != Dialogue::Style::kSimple && set_for == exported_.about.name;
    dialogue_.allocation = CanExtents<Stack> && selected;
    dialogue_.cache = CanResidency<Stack> && selected;
    dialogue_.resize_limit = exported_.about.resize_limit;
    dialogue_.requests = requests;
    dialogue_.replies = stream.out.substr(negotiated);
    dialogue_.broken_off = !status.ok();
    dialogue_.in_step = stream.chunk < nbd::kRequestSize;
    MustBeRight(Judge(dialogue_));
  }

  // To be called at the end.
  void CheckBytes() {
    if (!open_) return;
    std::string bytes(Stack::Size(*state_), '\0');
    if (bytes.size() != dialogue_.disk.size() || exported_.about.size != bytes.size()) MustBeRight("another size at the end");
    if (!Stack::Read(*state_, 0, std::as_writable_bytes(std::span(bytes))).ok()) MustBeRight("no read at the end");
    if (bytes != dialogue_.disk) MustBeRight("other bytes at the end");
  }

 private:
  void Open() {
    open_ = true;
    if (!Stack::Open(config_, *state_).ok() || Stack::Size(*state_) != exported_.about.size) MustBeRight("no device");
    dialogue_.disk = std::string(exported_.about.size, '\0');
    if (!filled_) return;
    dialogue_.disk = FilledDisk(dialogue_.disk.size());
    for (size_t at = 0; at < dialogue_.disk.size(); at += 4096) {
      if (dialogue_.disk[at] == 0) continue;
      if (!Fill(at, std::as_bytes(std::span(dialogue_.disk)).subspan(at, 4096)).ok()) MustBeRight("no write");
    }
    dialogue_.unflushed.assign(dialogue_.disk.size(), true);
  }

  absl::Status Fill(uint64_t offset, ConstBytes bytes) {
    if constexpr (CanWrite<Stack>) {
      return Stack::Write(*state_, offset, bytes);
    } else {
      return Stack::Below::Write(state_->below, offset, bytes);
    }
  }

  const typename Stack::Config config_;
  const bool filled_;
  const std::unique_ptr<typename Stack::State> state_ = std::make_unique<typename Stack::State>();
  Exported<Stack> exported_ = {.device = *state_, .about = {}};
  Dialogue dialogue_;
  bool open_ = false;
};

// Serves `requests` from a fresh device of `config`.
template <Device Stack>
void RunDialogue(uint8_t choice, const std::string& requests, uint64_t size, const typename Stack::Config& config) {
  const bool filled = (choice & kChooseFilled) != 0;
  JudgedExport<Stack> judged("", size, config, filled, (choice & kChooseResize) != 0 ? size + size / 2 : 0);
  const nbd::Export* const exports[] = {&judged.about()};
  judged.Serve(exports, 0, choice, "", requests);
  judged.CheckBytes();
}

}  // namespace buse::testing

#endif  // TESTS_FUZZ_DIALOGUE_H_
