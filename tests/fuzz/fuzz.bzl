# SPDX-License-Identifier: Apache-2.0
#
# Fuzz targets. Each is a program for a fuzzer, with --config=fuzz, and a test over its corpus, with any compiler.

def fuzz_target(name, deps, corpus, finds = False):
    """Makes NAME, the fuzzer (manual: needs --config=fuzz), and NAME_corpus_test.

    Args:
      name: NAME.cc is the target.
      deps: of the target.
      corpus: a folder of inputs.
      finds: whether the corpus test must end with a finding.
    """
    native.cc_library(
        name = name + "_target",
        testonly = True,
        srcs = [name + ".cc"],
        deps = deps + [":target"],
        alwayslink = True,
    )
    native.cc_binary(
        name = name,
        testonly = True,
        linkopts = ["-fsanitize=fuzzer"],
        tags = ["manual"],
        deps = [":" + name + "_target"],
    )
    native.cc_binary(
        name = name + "_replay",
        testonly = True,
        deps = [
            ":replay",
            ":" + name + "_target",
        ],
    )
    native.sh_test(
        name = name + "_corpus_test",
        size = "medium",
        srcs = ["corpus_test.sh"],
        args = [
            "$(location :" + name + "_replay)",
            "finding" if finds else "nothing",
            native.package_name() + "/" + corpus,
        ],
        data = [":" + name + "_replay"] + native.glob([corpus + "/*"]),
    )
