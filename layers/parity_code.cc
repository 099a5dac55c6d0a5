// SPDX-License-Identifier: Apache-2.0
//
// The matrix, its inverse for what is known, and ISA-L's loops over bytes.

#include "layers/parity_code.h"

#include <cassert>

#include "isa-l/erasure_code.h"

namespace buse {

void ParityCode::Open(size_t data, size_t parity) {
  assert(data >= 1 && parity >= 1 && data + parity <= kMostElements);
  data_ = data;
  elements_ = data + parity;
  gf_gen_cauchy1_matrix(matrix_.data(), static_cast<int>(elements_), static_cast<int>(data_));
  tables_.resize(kTable * data_ * parity);
  ec_init_tables(static_cast<int>(data_), static_cast<int>(parity), matrix_.data() + data_ * data_, tables_.data());
}

void ParityCode::Encode(std::byte* const* elements, size_t bytes) const {
  // The library takes what it only reads as not const.
  std::array<unsigned char*, kMostElements> all;
  for (size_t i = 0; i < elements_; ++i) all[i] = reinterpret_cast<unsigned char*>(elements[i]);
  ec_encode_data(static_cast<int>(bytes), static_cast<int>(data_), static_cast<int>(elements_ - data_),
                 const_cast<unsigned char*>(tables_.data()), all.data(), all.data() + data_);
}

void ParityCode::Reconstruct(LegMask known, LegMask wanted, std::byte* const* elements, size_t bytes) const {
  std::array<unsigned char, kMostElements * kMostElements> rows;
  std::array<unsigned char, kMostElements * kMostElements> inverse;
  std::array<unsigned char*, kMostElements> sources;
  size_t count = 0;
  ForEachLeg(known, [&](size_t element) {
    if (count == data_) return;
    for (size_t i = 0; i < data_; ++i) rows[count * data_ + i] = matrix_[element * data_ + i];
    sources[count++] = reinterpret_cast<unsigned char*>(elements[element]);
  });
  assert(count == data_ && "as many elements are known as there is data");
  // Any K rows of a Cauchy matrix under an identity are independent.
  [[maybe_unused]] const int singular = gf_invert_matrix(rows.data(), inverse.data(), static_cast<int>(data_));
  assert(singular == 0);
  // The rows of what is wanted, in terms of what is known.
  std::array<unsigned char, kMostElements * kMostElements> wanted_rows = {};
  std::array<unsigned char*, kMostElements> targets;
  size_t targets_used = 0;
  ForEachLeg(wanted, [&](size_t element) {
    unsigned char* const row = wanted_rows.data() + targets_used * data_;
    for (size_t i = 0; i < data_; ++i) {
      for (size_t j = 0; j < data_; ++j) row[j] ^= gf_mul(matrix_[element * data_ + i], inverse[i * data_ + j]);
    }
    targets[targets_used++] = reinterpret_cast<unsigned char*>(elements[element]);
  });
  // K known and others wanted, of 16.
  std::array<unsigned char, kTable * kMostElements / 2 * kMostElements / 2> tables;
  const int k = static_cast<int>(data_);
  const int rows_used = static_cast<int>(targets_used);
  ec_init_tables(k, rows_used, wanted_rows.data(), tables.data());
  ec_encode_data(static_cast<int>(bytes), k, rows_used, tables.data(), sources.data(), targets.data());
}

}  // namespace buse
