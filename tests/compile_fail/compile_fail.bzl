# SPDX-License-Identifier: Apache-2.0
"""compile_fail_test: a source that compiles, and that with -DILLEGAL must not, for the reason given.

The compiler runs as a build action, so only the headers of `deps` are there, and their include paths come from the
rules themselves. The test then judges what the compiler said.
"""

load("@bazel_tools//tools/build_defs/cc:action_names.bzl", "CPP_COMPILE_ACTION_NAME")
load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

def _compile(ctx, toolchain, features, context, defines, log):
    variables = cc_common.create_compile_variables(
        feature_configuration = features,
        cc_toolchain = toolchain,
        user_compile_flags = ctx.fragments.cpp.copts + ctx.fragments.cpp.cxxopts,
        include_directories = context.includes,
        quote_include_directories = context.quote_includes,
        system_include_directories = context.system_includes,
        preprocessor_defines = depset(defines, transitive = [context.defines]),
    )
    command = dict(feature_configuration = features, action_name = CPP_COMPILE_ACTION_NAME)
    flags = cc_common.get_memory_inefficient_command_line(variables = variables, **command)
    ctx.actions.run_shell(
        inputs = depset([ctx.file.src], transitive = [context.headers, toolchain.all_files]),
        outputs = [log],
        # The first line of the log is the compiler's exit status.
        command = 'log=$1; shift; said=$("$@" 2>&1); printf "%s\\n" $? "$said" >"$log"',
        arguments = [log.path, cc_common.get_tool_for_action(**command)] + flags + ["-fsyntax-only", ctx.file.src.path],
        # English messages, whoever builds.
        env = dict(cc_common.get_environment_variables(variables = variables, **command), LC_ALL = "C"),
        mnemonic = "CompileFail",
        progress_message = "Compiling %s %s" % (ctx.file.src.short_path, " ".join(["-D" + d for d in defines])),
    )

def _impl(ctx):
    toolchain = find_cpp_toolchain(ctx)
    features = cc_common.configure_features(
        ctx = ctx,
        cc_toolchain = toolchain,
        requested_features = ctx.features,
        unsupported_features = ctx.disabled_features + ["layering_check", "module_maps"],
    )
    context = cc_common.merge_cc_infos(cc_infos = [d[CcInfo] for d in ctx.attr.deps]).compilation_context
    legal = ctx.actions.declare_file(ctx.label.name + ".legal.log")
    illegal = ctx.actions.declare_file(ctx.label.name + ".illegal.log")
    _compile(ctx, toolchain, features, context, [], legal)
    _compile(ctx, toolchain, features, context, ["ILLEGAL"], illegal)
    test = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.expand_template(
        template = ctx.file._judge,
        output = test,
        substitutions = {
            "{source}": ctx.file.src.short_path,
            "{legal}": legal.short_path,
            "{illegal}": illegal.short_path,
            "{message}": ctx.attr.message,
        },
        is_executable = True,
    )
    return [DefaultInfo(executable = test, runfiles = ctx.runfiles([legal, illegal]))]

_compile_fail_test = rule(
    implementation = _impl,
    attrs = {
        "src": attr.label(mandatory = True, allow_single_file = [".cc"]),
        "message": attr.string(mandatory = True),
        "deps": attr.label_list(providers = [CcInfo]),
        "_judge": attr.label(default = "//tests/compile_fail:judge.sh.in", allow_single_file = True),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
    },
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
    test = True,
)

# What a case about one device needs.
_DEPS = ["//layers:passthrough", "//tests:leaves"]

def compile_fail_test(name, message, deps = _DEPS, **kwargs):
    """<name>.cc compiles. With -DILLEGAL it does not, and the first error contains `message`."""
    _compile_fail_test(
        name = name + "_test",
        src = name + ".cc",
        message = message,
        deps = deps,
        size = "small",
        **kwargs
    )
