# SPDX-License-Identifier: Apache-2.0
"""Abseil, GoogleTest, Google Benchmark, CLI11, nlohmann JSON, libnl and some C libraries under their upstream labels, from the files of Debian 12 packages.

tools/setup installs the packages; nothing is downloaded. Each repository is named as its http_archive would be, so the
BUILD files are the same with either. Headers are copied, not linked: --config=strict hides those in /usr/include, so that
a dependency which is not declared is not found there.
"""

_LIBDIRS = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]

# Public targets of Abseil 20220623, by package. The pkg-config name is
# absl_<target>, or absl_<package>_<target>.
_ABSL = {
    "algorithm": ["algorithm", "container"],
    "base": ["base", "config", "core_headers", "dynamic_annotations", "endian", "log_severity", "malloc_internal"],
    "cleanup": ["cleanup"],
    "container": ["btree", "fixed_array", "flat_hash_map", "flat_hash_set", "inlined_vector", "node_hash_map", "node_hash_set"],
    "debugging": ["failure_signal_handler", "leak_check", "stacktrace", "symbolize"],
    "flags": ["commandlineflag", "config", "flag", "marshalling", "parse", "reflection", "usage"],
    "functional": ["any_invocable", "bind_front", "function_ref"],
    "hash": ["city", "hash"],
    "memory": ["memory"],
    "meta": ["type_traits"],
    "numeric": ["bits", "int128"],
    "profiling": [],  # internal headers only
    "random": ["bit_gen_ref", "distributions", "random", "seed_gen_exception", "seed_sequences"],
    "status": ["status", "statusor"],
    "strings": ["cord", "internal", "str_format", "strings"],
    "synchronization": ["synchronization"],
    "time": ["time"],
    "types": ["any", "bad_any_cast", "bad_optional_access", "bad_variant_access", "compare", "optional", "span", "variant"],
    "utility": ["utility"],
}

def _libdir(ctx, probe):
    for d in _LIBDIRS:
        if ctx.path(d + "/" + probe).exists:
            return d
    fail("%s not found: run tools/setup, which installs %s" % (probe, ctx.attr.deb))

def _need(ctx, path):
    if not ctx.path(path).exists:
        fail("%s not found: run tools/setup, which installs %s" % (path, ctx.attr.deb))

def _copy(ctx, source, target):
    _need(ctx, source)
    r = ctx.execute(["cp", "-rL", source, target])
    if r.return_code:
        fail(r.stderr)

def _pc(ctx, path):
    """Requires: and Libs: of a pkg-config file."""
    requires, libs = [], []
    for line in ctx.read(path).split("\n"):
        if line.startswith("Requires:"):
            for r in line[len("Requires:"):].split(","):
                if r.strip():
                    requires.append(r.strip().split(" ")[0])
        elif line.startswith("Libs:"):
            libs = [w for w in line[len("Libs:"):].split(" ") if w and not w.startswith("-L")]
    return requires, libs

def _pc_name(pkg, target, known):
    if pkg == "flags":
        return "absl_flags" if target == "flag" else "absl_flags_" + target
    for pc in ["absl_%s_%s" % (pkg, target), "absl_" + target]:
        if pc in known:
            return pc
    fail("no pkg-config file for //absl/%s:%s" % (pkg, target))

def _absl_impl(ctx):
    libdir = _libdir(ctx, "pkgconfig/absl_base.pc")
    _copy(ctx, "/usr/include/absl", "absl")
    ctx.file("WORKSPACE", "workspace(name = \"com_google_absl\")\n")
    ctx.file("BUILD.bazel", """package(default_visibility = ["//visibility:public"])
cc_library(name = "isystem", includes = ["."])
""")

    pcs = {}
    for p in ctx.path(libdir + "/pkgconfig").readdir():
        if p.basename.startswith("absl_") and p.basename.endswith(".pc"):
            pcs[p.basename[:-3]] = _pc(ctx, p)
    label = {}  # pkg-config name -> label
    for pkg, targets in _ABSL.items():
        for t in targets:
            label[_pc_name(pkg, t, pcs)] = "//absl/%s:%s" % (pkg, t)
    build = {pkg: ["""package(default_visibility = ["//visibility:public"])
filegroup(name = "hdrs", srcs = glob(["**/*.h", "**/*.inc"]))
"""] for pkg in _ABSL}
    build["../debian"] = ["""package(default_visibility = ["//visibility:public"])
cc_library(name = "all_hdrs", hdrs = %r)
""" % ["//absl/%s:hdrs" % pkg for pkg in _ABSL]]
    for pc, (requires, libs) in pcs.items():
        pkg, _, name = label.get(pc, "//absl/../debian:" + pc)[len("//absl/"):].partition(":")
        public = pkg in _ABSL
        srcs = []
        if ctx.attr.linkage == "static":
            # Archives as declared inputs: Bazel then puts them in order.
            for l in [l for l in libs if l.startswith("-labsl_")]:
                ctx.symlink("%s/lib%s.a" % (libdir, l[2:]), "absl/%s/lib%s.a" % (pkg, l[2:]))
                srcs.append("lib%s.a" % l[2:])
            libs = [l for l in libs if not l.startswith("-labsl_")]
        build[pkg].append("cc_library(name = %r, hdrs = %r, srcs = %r, linkopts = %r, deps = %r)\n" % (
            name,
            [":hdrs"] if public else [],
            srcs,
            libs,
            ["//:isystem", "//debian:all_hdrs"] + [label.get(r, "//debian:" + r) for r in requires],
        ))
    for pkg, lines in build.items():
        ctx.file("absl/%s/BUILD.bazel" % pkg, "".join(lines))

debian_absl = repository_rule(
    implementation = _absl_impl,
    attrs = {
        "deb": attr.string(default = "libabsl-dev"),
        "linkage": attr.string(default = "static", values = ["static", "shared"]),
    },
    local = True,
)

def _gtest_impl(ctx):
    _need(ctx, "/usr/src/googletest/googletest/src/gtest-all.cc")
    ctx.file("WORKSPACE", "workspace(name = \"com_google_googletest\")\n")
    for lib in ["googletest", "googlemock"]:
        ctx.symlink("/usr/src/googletest/%s/src" % lib, lib + "/src")
    ctx.execute(["mkdir", "include"])
    for lib in ["gtest", "gmock"]:
        _copy(ctx, "/usr/include/" + lib, "include/" + lib)
    ctx.file("BUILD.bazel", """package(default_visibility = ["//visibility:public"])
cc_library(
    name = "gtest",
    srcs = glob(
        ["googletest/src/*.cc", "googletest/src/*.h", "googlemock/src/*.cc"],
        exclude = ["googletest/src/gtest-all.cc", "googletest/src/gtest_main.cc",
                   "googlemock/src/gmock-all.cc", "googlemock/src/gmock_main.cc"],
    ),
    hdrs = glob(["include/**/*.h"]),
    includes = ["googlemock", "googletest", "include"],
    linkopts = ["-pthread"],
    linkstatic = True,
)
# With the headers, as tests name only this one.
cc_library(name = "gtest_main", srcs = ["googlemock/src/gmock_main.cc"], hdrs = glob(["include/**/*.h"]), deps = [":gtest"])
cc_library(name = "gtest_prod", hdrs = ["include/gtest/gtest_prod.h"], includes = ["include"])
""")

debian_googletest = repository_rule(
    implementation = _gtest_impl,
    attrs = {"deb": attr.string(default = "googletest libgtest-dev libgmock-dev")},
    local = True,
)

def _benchmark_impl(ctx):
    ctx.execute(["mkdir", "include"])
    _copy(ctx, "/usr/include/benchmark", "include/benchmark")
    ctx.file("WORKSPACE", "workspace(name = \"com_github_google_benchmark\")\n")
    ctx.file("BUILD.bazel", """package(default_visibility = ["//visibility:public"])
cc_library(name = "benchmark", hdrs = glob(["include/**/*.h"]), includes = ["include"], linkopts = ["-lbenchmark", "-pthread"])
cc_library(name = "benchmark_main", linkopts = ["-lbenchmark_main"], deps = [":benchmark"])
""")

debian_benchmark = repository_rule(
    implementation = _benchmark_impl,
    attrs = {"deb": attr.string(default = "libbenchmark-dev")},
    local = True,
)

def _cli11_impl(ctx):
    ctx.execute(["mkdir", "include"])
    _copy(ctx, "/usr/include/CLI", "include/CLI")
    ctx.file("WORKSPACE", "workspace(name = \"cli11\")\n")
    ctx.file("BUILD.bazel", """package(default_visibility = ["//visibility:public"])
cc_library(name = "cli11", hdrs = glob(["include/**/*.hpp"]), includes = ["include"])
""")

debian_cli11 = repository_rule(
    implementation = _cli11_impl,
    attrs = {"deb": attr.string(default = "libcli11-dev")},
    local = True,
)

# Of Boost's headers, which lie together, those that Boost.Context needs.
def _boost_impl(ctx):
    ctx.file("WORKSPACE", "workspace(name = \"boost\")\n")
    ctx.execute(["mkdir", "-p", "include/boost"])
    for header in ["config", "context", "core", "detail", "smart_ptr", "assert.hpp", "config.hpp", "cstdint.hpp", "intrusive_ptr.hpp"]:
        _copy(ctx, "/usr/include/boost/" + header, "include/boost")
    ctx.file("BUILD.bazel", """package(default_visibility = ["//visibility:public"])
cc_library(name = "context", hdrs = glob(["include/**/*.hpp"]), includes = ["include"], linkopts = ["-lboost_context"])
""")

debian_boost = repository_rule(
    implementation = _boost_impl,
    attrs = {"deb": attr.string(default = "libboost-context-dev")},
    local = True,
)

def _json_impl(ctx):
    ctx.execute(["mkdir", "include"])
    _copy(ctx, "/usr/include/nlohmann", "include/nlohmann")
    ctx.file("WORKSPACE", "workspace(name = \"com_github_nlohmann_json\")\n")
    ctx.file("BUILD.bazel", """package(default_visibility = ["//visibility:public"])
cc_library(name = "json", hdrs = glob(["include/**/*.hpp"]), includes = ["include"])
""")

debian_json = repository_rule(
    implementation = _json_impl,
    attrs = {"deb": attr.string(default = "nlohmann-json3-dev")},
    local = True,
)

# A C library: its headers, by their names under /usr/include, and what to link.
def _c_library_impl(ctx):
    ctx.file("WORKSPACE", "workspace(name = %r)\n" % ctx.name)
    ctx.execute(["mkdir", "include"])
    for header in ctx.attr.headers:
        _copy(ctx, "/usr/include/" + header, "include")
        multiarch = _libdir(ctx, "libc.so").replace("/lib/", "/include/") + "/" + header
        if ctx.path(multiarch).exists:
            _copy(ctx, multiarch, "include")
    ctx.file("BUILD.bazel", """package(default_visibility = ["//visibility:public"])
cc_library(name = %r, hdrs = glob(["include/**/*.h"]), includes = ["include"], linkopts = ["-l%s"])
""" % (ctx.attr.target, ctx.attr.library))

debian_c_library = repository_rule(
    implementation = _c_library_impl,
    attrs = {
        "deb": attr.string(mandatory = True),
        "headers": attr.string_list(mandatory = True),
        "library": attr.string(mandatory = True),
        "target": attr.string(mandatory = True),
    },
    local = True,
)

# libnl has no Bazel build upstream: it is the system's wherever we build. Its headers lie outside the default path.
def _libnl_impl(ctx):
    _need(ctx, "/usr/include/libnl3/netlink/genl/genl.h")
    ctx.file("WORKSPACE", "workspace(name = \"libnl\")\n")
    ctx.symlink("/usr/include/libnl3/netlink", "include/netlink")
    ctx.file("BUILD.bazel", """package(default_visibility = ["//visibility:public"])
cc_library(name = "genl", hdrs = glob(["include/**/*.h"]), includes = ["include"], linkopts = ["-lnl-genl-3", "-lnl-3"])
""")

libnl = repository_rule(
    implementation = _libnl_impl,
    attrs = {"deb": attr.string(default = "libnl-genl-3-dev")},
    local = True,
)

# Bazel would download these. Its own rules are built in; Debian's bazel-rules-cc does not load under Debian's Bazel.
_RULES = {
    "rules_cc": ("cc", "cpp", ["cc_binary", "cc_import", "cc_library", "cc_proto_library", "cc_test", "cc_toolchain", "cc_toolchain_suite", "objc_library"]),
    "rules_java": ("java", "jdk", ["java_binary", "java_import", "java_library", "java_proto_library", "java_runtime", "java_toolchain"]),
}

def _builtin_rules_impl(ctx):
    package, tools, rules = _RULES[ctx.name]
    ctx.file("WORKSPACE", "workspace(name = %r)\n" % ctx.name)
    ctx.file(package + "/BUILD.bazel", """package(default_visibility = ["//visibility:public"])
alias(name = "toolchain_type", actual = "@bazel_tools//tools/%s:toolchain_type")
""" % tools)
    ctx.file(package + "/defs.bzl", "".join(["%s = native.%s\n" % (r, r) for r in rules]))

builtin_rules = repository_rule(implementation = _builtin_rules_impl)

# Every test depends on the coverage tools, used or not; Debian has none, so `bazel coverage` does not work.
def _no_coverage_tools_impl(ctx):
    ctx.file("WORKSPACE", "workspace(name = %r)\n" % ctx.name)
    ctx.file("BUILD.bazel", """package(default_visibility = ["//visibility:public"])
[alias(name = name, actual = "@bazel_tools//tools/coverage:dummy_coverage_report_generator")
 for name in ["coverage_report_generator", "lcov_merger"]]
""")

no_coverage_tools = repository_rule(implementation = _no_coverage_tools_impl)

def debian_repositories():
    for name in _RULES:
        builtin_rules(name = name)
    no_coverage_tools(name = "remote_coverage_tools")
    debian_absl(name = "com_google_absl")
    debian_googletest(name = "com_google_googletest")
    debian_benchmark(name = "com_github_google_benchmark")
    debian_cli11(name = "cli11")
    debian_boost(name = "boost")
    debian_c_library(name = "liburing", target = "liburing", deb = "liburing-dev", headers = ["liburing.h", "liburing"], library = "uring")
    debian_json(name = "com_github_nlohmann_json")
    debian_c_library(name = "zlib", target = "zlib", deb = "zlib1g-dev", headers = ["zlib.h", "zconf.h"], library = "z")
    debian_c_library(name = "isal", target = "isal", deb = "libisal-dev", headers = ["isa-l", "isa-l.h"], library = "isal")
    debian_c_library(name = "xxhash", target = "xxhash", deb = "libxxhash-dev", headers = ["xxhash.h", "xxh3.h"], library = "xxhash")
    debian_c_library(name = "openssl", target = "crypto", deb = "libssl-dev", headers = ["openssl"], library = "crypto")
    debian_c_library(name = "gnutls", target = "gnutls", deb = "libgnutls28-dev", headers = ["gnutls"], library = "gnutls")
    libnl(name = "libnl")
