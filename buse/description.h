// SPDX-License-Identifier: Apache-2.0
//
// How a layer describes itself, once: its name, a sentence, its family, and its options bound to the fields of its Config.
// Command line, help, validation and the picture of the stack are generated from it (buse/options.h).

#ifndef BUSE_DESCRIPTION_H_
#define BUSE_DESCRIPTION_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

namespace buse {

// What a layer changes, which decides what it may pass on.
enum class Family {
  kLeaf,       // has nothing below
  kObserver,   // same addresses, same bytes: passes every operation on, except Backing
  kRemap,      // other addresses, same bytes: passes every operation on, translated
  kTransform,  // other bytes, or bytes held back: passes nothing on by default
};

enum class Unit {
  kNone,
  kBytes,  // accepts 4096, 4K, 128M, 3T: powers of 1024
  kMilliseconds,
  kMicroseconds,
};

// One option. Its default is what a default-constructed Config holds.
template <class Config>
struct Option {
  // A compiler that "could not convert" a description means another type of field here, or more options than it has room for.
  // false: a flag that is off unless given. Numbers are whole and not negative. Text is taken as it is.
  std::variant<bool Config::*, uint64_t Config::*, std::string Config::*> field;
  const char* name;  // "offset" for --offset, lower case with dashes. A positional is shown in capitals.
  const char* help;  // one sentence without a full stop
  char letter = 0;   // a short form: 'v' for -v
  Unit unit = Unit::kNone;
  bool positional = false;
  bool required = false;
  uint64_t min = 0;  // of a number, inclusive
  uint64_t max = UINT64_MAX;
  // Of use only when a medium is made: where the program has a verb for that (buse/verbs.h), only that one takes it.
  bool shapes_medium = false;
};

template <class Config, size_t kOptions = 0>
struct Description {
  const char* name;     // one lower-case word
  const char* summary;  // one sentence without a full stop, that says what it does to the device below
  Family family;
  std::array<Option<Config>, kOptions> options = {};
};

}  // namespace buse

#endif  // BUSE_DESCRIPTION_H_
