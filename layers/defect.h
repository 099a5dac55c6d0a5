// SPDX-License-Identifier: Apache-2.0
//
// BUSE_DEFECT("name"): a place where a test can plant a bug, to see that the checks find it. False, at no cost, except where a
// test compiles its own copy of a layer with BUSE_DEFECTS defined and sets planted_defect to that name.

#ifndef LAYERS_DEFECT_H_
#define LAYERS_DEFECT_H_

#ifdef BUSE_DEFECTS

#include <string>

namespace buse::testing {
inline std::string planted_defect;  // none if empty; set before threads are started
}  // namespace buse::testing

#define BUSE_DEFECT(name) (::buse::testing::planted_defect == (name))

#else

#define BUSE_DEFECT(name) false

#endif

#endif  // LAYERS_DEFECT_H_
