// SPDX-License-Identifier: Apache-2.0
//
// RepeatTuple<T, n>: std::tuple<T, T, ...>, what several devices of one type are called in a layer's Below and Config.

#ifndef LAYERS_REPEAT_TUPLE_H_
#define LAYERS_REPEAT_TUPLE_H_

#include <cstddef>
#include <tuple>
#include <utility>

namespace buse {

namespace repeat_tuple_internal {

template <class T, class Indexes>
struct Indexed;
template <class T, size_t... kIndex>
struct Indexed<T, std::index_sequence<kIndex...>> {
  template <size_t>
  using Same = T;
  using Type = std::tuple<Same<kIndex>...>;
};

}  // namespace repeat_tuple_internal

template <class T, size_t kTimes>
using RepeatTuple = typename repeat_tuple_internal::Indexed<T, std::make_index_sequence<kTimes>>::Type;

}  // namespace buse

#endif  // LAYERS_REPEAT_TUPLE_H_
