// SPDX-License-Identifier: Apache-2.0
//
// A transmission over any bytes, and its judgement.

#ifndef TESTS_FUZZ_DIALOGUE_H_
#define TESTS_FUZZ_DIALOGUE_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "buse/connection.h"
#include "tests/fuzz/judge.h"
#include "tests/fuzz/target.h"
#include "tests/wire.h"

namespace buse::testing {

// The bits of a choice.
enum DialogueChoice : uint8_t {
  kChooseStyle = 3,    // simple, structured, extended, extended
  kChooseContext = 4,  // base:allocation is selected
  kChoosePieces = 8,   // what the client says arrives in small pieces
  kChooseFilled = 16,  // the disk holds data with holes in it
  kChooseDevice = 96,  // for the caller
};

inline Dialogue::Style StyleOf(uint8_t choice) {
  const int style = choice & kChooseStyle;
  return style == 0 ? Dialogue::Style::kSimple : style == 1 ? Dialogue::Style::kStructured : Dialogue::Style::kExtended;
}

// What the client says before its requests.
inline std::string NegotiationOf(uint8_t choice) {
  std::string options = Big(4, 3);
  const Dialogue::Style style = StyleOf(choice);
  if (style == Dialogue::Style::kStructured) options += ClientOption(8, "");
  if (style == Dialogue::Style::kExtended) options += ClientOption(11, "");
  if ((choice & kChooseContext) != 0) options += ClientOption(10, Big(4, 0) + Big(4, 1) + Big(4, 15) + "base:allocation");
  return options + ClientOption(7, Big(4, 0) + Big(2, 0));
}

// What a filled disk of `size` bytes holds: data at the beginning of every 96 KiB.
inline std::string FilledDisk(size_t size) {
  std::string disk(size, '\0');
  for (size_t at = 0; at < size; at += 96 << 10) std::fill_n(disk.begin() + at, std::min<size_t>(8192, size - at), 'd');
  return disk;
}

// Serves `requests` from a fresh device of `config`, and ends the process if anything is wrong.
template <Device Stack>
void RunDialogue(uint8_t choice, const std::string& requests, const typename Stack::Config& config) {
  auto state = std::make_unique<typename Stack::State>();
  if (!Stack::Open(config, *state).ok()) MustBeRight("no device");
  Dialogue dialogue = {.style = StyleOf(choice), .disk = std::string(Stack::Size(*state), '\0'), .requests = requests};
  if ((choice & kChooseFilled) != 0) {
    dialogue.disk = FilledDisk(dialogue.disk.size());
    for (size_t at = 0; at < dialogue.disk.size(); at += 4096) {
      if (dialogue.disk[at] == 0) continue;
      if (!Stack::Write(*state, at, std::as_bytes(std::span(dialogue.disk)).subspan(at, 4096)).ok()) MustBeRight("no write");
    }
  }
  Exported<Stack> exported = {.device = *state,
                              .about = {.size = dialogue.disk.size(),
                                        .flags = nbd::TransmissionFlags<Stack>(),
                                        .min_block = static_cast<uint32_t>(Stack::kBlockSize),
                                        .contexts = nbd::ContextsOf<Stack>()}};
  Bytestream stream = {.in = NegotiationOf(choice) + requests};
  if ((choice & kChoosePieces) != 0) stream.chunk = 17;
  const nbd::Export* const exports[] = {&exported.about};
  ByteTransport transport(stream);
  const absl::StatusOr<std::optional<Agreement>> agreed = Negotiate(transport, exports);
  if (!agreed.ok() || !agreed->has_value()) MustBeRight("no agreement");
  const size_t negotiated = stream.out.size();
  const auto connection = std::make_unique<Connection<Stack, ByteTransport>>(exported, transport, *Buffers::Create(), **agreed);
  const absl::Status status = connection->Transmit();
  dialogue.context = CanExtents<Stack> && (choice & kChooseContext) != 0 && dialogue.style != Dialogue::Style::kSimple;
  dialogue.replies = stream.out.substr(negotiated);
  dialogue.broken_off = !status.ok();
  dialogue.in_step = stream.chunk < nbd::kRequestSize;
  MustBeRight(Judge(std::move(dialogue)));
}

}  // namespace buse::testing

#endif  // TESTS_FUZZ_DIALOGUE_H_
