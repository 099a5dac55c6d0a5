// SPDX-License-Identifier: Apache-2.0
//
// JsonWriter: JSON from beginning to end, indented, for people to read too.

#ifndef BENCH_JSON_H_
#define BENCH_JSON_H_

#include <cmath>
#include <concepts>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"

namespace buse::bench {

// Every value has a name inside of objects, and none inside of arrays.
class JsonWriter {
 public:
  void BeginObject(absl::string_view name = "") { Begin(name, '{'); }
  void EndObject() { End('}'); }
  void BeginArray(absl::string_view name = "") { Begin(name, '['); }
  void EndArray() { End(']'); }

  void Text(absl::string_view name, absl::string_view value) {
    Place(name);
    Quote(value);
  }
  void Item(absl::string_view value) { Text("", value); }
  void Number(absl::string_view name, double value) {
    Place(name);
    // Enough digits for whole numbers of bytes, no noise behind a point.
    absl::StrAppend(&text_, !std::isfinite(value)        ? "null"
                            : value == std::floor(value) ? absl::StrFormat("%.0f", value)
                                                         : absl::StrFormat("%.6g", value));
  }
  void Bool(absl::string_view name, bool value) {
    Place(name);
    text_ += value ? "true" : "false";
  }

  const std::string& text() const { return text_; }

 private:
  void Begin(absl::string_view name, char bracket) {
    Place(name);
    text_ += bracket;
    ++depth_;
    first_ = true;
  }

  void End(char bracket) {
    --depth_;
    if (!first_) NewLine();
    text_ += bracket;
    first_ = false;
    if (depth_ == 0) text_ += '\n';
  }

  void NewLine() {
    text_ += '\n';
    text_.append(depth_, ' ');
  }

  void Place(absl::string_view name) {
    if (depth_ > 0) {
      if (!first_) text_ += ',';
      NewLine();
    }
    first_ = false;
    if (!name.empty()) {
      Quote(name);
      text_ += ": ";
    }
  }

  void Quote(absl::string_view value) {
    text_ += '"';
    for (const char c : value) {
      if (c == '"' || c == '\\') {
        text_ += '\\';
        text_ += c;
      } else if (static_cast<unsigned char>(c) < 0x20) {
        absl::StrAppendFormat(&text_, "\\u%04x", static_cast<int>(c));
      } else {
        text_ += c;
      }
    }
    text_ += '"';
  }

  std::string text_;
  size_t depth_ = 0;
  bool first_ = true;
};

}  // namespace buse::bench

#endif  // BENCH_JSON_H_
