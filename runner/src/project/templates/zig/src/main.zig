//! The task: bytes in, bytes out, called once in a fresh sandbox.

const std = @import("std");
const wasmqtt = @import("wasmqtt.zig");

comptime {
    wasmqtt.exportTask(run);
}

fn run(ctx: wasmqtt.Context, input: []u8) wasmqtt.Result {
    if (input.len == 0) return .{ .reject = "the input is empty" };
    wasmqtt.log(.info, "{d} bytes for task {s}", .{ input.len, ctx.id });
    return .{ .ok = .{ .data = upper(input), .content_type = "text/plain" } };
}

fn upper(text: []u8) []u8 {
    for (text) |*byte| byte.* = std.ascii.toUpper(byte.*);
    return text;
}

test upper {
    var text = "hello, 2".*;
    try std.testing.expectEqualStrings("HELLO, 2", upper(&text));
}
