# SPDX-License-Identifier: Apache-2.0
"""A program built as it is released, with -c opt, whatever the mode of the build that asks for it."""

def _opt_impl(settings, attr):
    return {"//command_line_option:compilation_mode": "opt"}

_opt = transition(implementation = _opt_impl, inputs = [], outputs = ["//command_line_option:compilation_mode"])

def _optimized_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(output = out, target_file = ctx.executable.program, is_executable = True)
    return [DefaultInfo(
        executable = out,
        files = depset([out]),
        runfiles = ctx.runfiles([out]).merge(ctx.attr.program[0][DefaultInfo].default_runfiles),
    )]

optimized = rule(
    implementation = _optimized_impl,
    executable = True,
    attrs = {
        "program": attr.label(cfg = _opt, executable = True, mandatory = True),
        "_allowlist_function_transition": attr.label(default = "@bazel_tools//tools/allowlists/function_transition_allowlist"),
    },
)
