//! The world `wasmqtt:task/task` for Zig: what a task is given and gives back, and what the runner offers.
//!
//! An instance runs one task and is dropped, so nothing that is allocated here need be freed.

const std = @import("std");
const builtin = @import("builtin");

/// What the guest is told about the task that it runs.
pub const Context = struct {
    /// The task's id; it stays the same over retries.
    id: []const u8,
    tenant: []const u8,
    /// The module reference as the producer wrote it.
    module: []const u8,
    /// Counted from 1.
    attempt: u32,
    /// The media type of the input, when the producer named one.
    content_type: ?[]const u8,
    /// When the runner will stop the guest, in milliseconds since the Unix epoch.
    deadline_ms: u64,
    labels: []const Label,
};

/// A label of the task.
pub const Label = extern struct { name: Text, value: Text };

/// A string as the canonical ABI passes it.
pub const Text = extern struct {
    ptr: [*]const u8,
    len: usize,

    pub fn slice(text: Text) []const u8 {
        return text.ptr[0..text.len];
    }
};

/// How a task ends.
pub const Result = union(enum) {
    ok: Output,
    /// The input is wrong and always will be: never retried.
    reject: []const u8,
    /// It failed for now: worth another attempt, not before the delay.
    retry_after: struct { message: []const u8, delay_ms: u64 },
    /// It failed: retried if the task's own retry policy allows another attempt.
    failed: []const u8,
};

/// What a task gives back when it succeeds.
pub const Output = struct {
    data: []const u8,
    content_type: ?[]const u8 = null,
};

pub const Level = enum(u8) { trace, debug, info, warn, @"error" };

/// Writes a line to the task's log.
pub fn log(level: Level, comptime format: []const u8, arguments: anytype) void {
    const line = std.fmt.allocPrint(allocator, format, arguments) catch return;
    if (wasm) host.log(@intFromEnum(level), line.ptr, line.len);
}

/// Says how far the task is: `done` of `total` steps, 0 when that is not known.
pub fn progress(done: u64, total: u64, message: []const u8) void {
    if (wasm) host.progress(done, total, message.ptr, message.len);
}

/// Whether somebody asked for this task to be canceled.
pub fn isCancelled() bool {
    return wasm and host.@"is-cancelled"() != 0;
}

/// The fuel that is left.
pub fn fuelRemaining() u64 {
    return if (wasm) host.@"fuel-remaining"() else std.math.maxInt(u64);
}

const wasm = builtin.target.cpu.arch.isWasm();

/// Memory for a task.
pub const allocator = if (wasm) std.heap.wasm_allocator else std.heap.page_allocator;

/// Exports a function as the task of this module; `export` does nothing where a test runs.
pub fn exportTask(comptime run: fn (Context, []u8) Result) void {
    if (!wasm) return;
    const abi = struct {
        fn realloc(old: ?[*]u8, old_size: usize, alignment: usize, size: usize) callconv(.c) ?[*]u8 {
            _ = alignment; // 16 is as much as anything asks for
            if (size == 0) return @ptrFromInt(16);
            const memory = allocator.alignedAlloc(u8, .@"16", size) catch @trap();
            if (old_size > 0) @memcpy(memory[0..old_size], old.?[0..old_size]);
            return memory.ptr;
        }

        fn call(
            id: [*]const u8,
            id_len: usize,
            tenant: [*]const u8,
            tenant_len: usize,
            module: [*]const u8,
            module_len: usize,
            attempt: u32,
            has_type: u32,
            content_type: [*]const u8,
            content_type_len: usize,
            deadline_ms: u64,
            labels: [*]const Label,
            labels_len: usize,
            input: [*]u8,
            input_len: usize,
        ) callconv(.c) *const Returned {
            const context: Context = .{
                .id = id[0..id_len],
                .tenant = tenant[0..tenant_len],
                .module = module[0..module_len],
                .attempt = attempt,
                .content_type = if (has_type == 0) null else content_type[0..content_type_len],
                .deadline_ms = deadline_ms,
                .labels = labels[0..labels_len],
            };
            returned = switch (run(context, input[0..input_len])) {
                .ok => |output| .{ .tag = 0, .of = .{ .output = .{
                    .data = passed(output.data),
                    .has_type = @intFromBool(output.content_type != null),
                    .content_type = passed(output.content_type orelse ""),
                } } },
                .reject => |message| failure(0, message, 0),
                .retry_after => |later| failure(1, later.message, later.delay_ms),
                .failed => |message| failure(2, message, 0),
            };
            return &returned;
        }
    };
    @export(&abi.realloc, .{ .name = "cabi_realloc" });
    @export(&abi.call, .{ .name = "run" });
}

/// `result<output, error>`, laid out as the canonical ABI has it.
const Returned = extern struct {
    tag: u8,
    of: extern union {
        output: extern struct { data: Text, has_type: u8, content_type: Text },
        failure: extern struct { tag: u8, of: extern struct { message: Text, delay_ms: u64 align(8) } align(8) },
    } align(8),
};

var returned: Returned = undefined;

fn failure(tag: u8, message: []const u8, delay_ms: u64) Returned {
    return .{ .tag = 1, .of = .{ .failure = .{ .tag = tag, .of = .{ .message = passed(message), .delay_ms = delay_ms } } } };
}

fn passed(slice: []const u8) Text {
    return .{ .ptr = slice.ptr, .len = slice.len };
}

const host = struct {
    extern "wasmqtt:task/host@0.1.0" fn log(level: u32, message: [*]const u8, len: usize) void;
    extern "wasmqtt:task/host@0.1.0" fn progress(done: u64, total: u64, message: [*]const u8, len: usize) void;
    extern "wasmqtt:task/host@0.1.0" fn @"is-cancelled"() u32;
    extern "wasmqtt:task/host@0.1.0" fn @"fuel-remaining"() u64;
};
