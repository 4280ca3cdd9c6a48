//! Frames of a field device in, as it sends them over the air; out, what they say, as lines of JSON.
//!
//! A frame, all of it little-endian:
//!
//!     0xA5  version  device: u32  time: u32  count: u8  count × (kind: u8, value: i16)  CRC-16/XMODEM of all before: u16

const std = @import("std");
const wasmqtt = @import("wasmqtt.zig");

comptime {
    wasmqtt.exportTask(run);
}

const Kind = enum(u8) {
    temperature = 1,
    humidity = 2,
    battery = 3,
    _,

    /// What a value of this kind is counted in: so many to the unit.
    fn scale(kind: Kind) f32 {
        return switch (kind) {
            .temperature, .humidity => 10,
            .battery => 1000,
            _ => 1,
        };
    }
};

const Header = packed struct {
    start: u8,
    version: u8,
    device: u32,
    time: u32,
    count: u8,

    const size = @bitSizeOf(Header) / 8;
};

const record_size = 3;

fn run(_: wasmqtt.Context, input: []u8) wasmqtt.Result {
    var text: std.ArrayList(u8) = .empty;
    var at: usize = 0;
    var frames: usize = 0;
    while (at < input.len) : (frames += 1) {
        at += decode(input[at..], &text) catch |why| return rejected(frames, at, why);
    }
    wasmqtt.log(.info, "{d} frames in {d} bytes", .{ frames, input.len });
    return .{ .ok = .{ .data = text.items, .content_type = "application/x-ndjson" } };
}

const Wrong = error{ NoFrame, UnknownVersion, CutShort, WrongChecksum, OutOfMemory };

/// Adds a frame to the text; how many bytes it is.
fn decode(bytes: []const u8, text: *std.ArrayList(u8)) Wrong!usize {
    if (bytes.len < Header.size) return error.CutShort;
    const header: Header = @bitCast(std.mem.readInt(u88, bytes[0..Header.size], .little));
    if (header.start != 0xA5) return error.NoFrame;
    if (header.version != 1) return error.UnknownVersion;
    const end = Header.size + @as(usize, header.count) * record_size;
    if (bytes.len < end + 2) return error.CutShort;
    const sum = std.mem.readInt(u16, bytes[end..][0..2], .little);
    if (sum != std.hash.crc.@"CRC-16/XMODEM".hash(bytes[0..end])) return error.WrongChecksum;

    try text.print(wasmqtt.allocator, "{{\"device\":\"{x:0>8}\",\"time\":{d}", .{ header.device, header.time });
    var record: usize = Header.size;
    while (record < end) : (record += record_size) {
        const kind: Kind = @enumFromInt(bytes[record]);
        const value: f32 = @floatFromInt(std.mem.readInt(i16, bytes[record + 1 ..][0..2], .little));
        if (std.enums.tagName(Kind, kind)) |name| {
            try text.print(wasmqtt.allocator, ",\"{s}\":{d}", .{ name, value / kind.scale() });
        } else {
            try text.print(wasmqtt.allocator, ",\"kind {d}\":{d}", .{ bytes[record], value });
        }
    }
    try text.appendSlice(wasmqtt.allocator, "}\n");
    return end + 2;
}

fn rejected(frame: usize, at: usize, why: Wrong) wasmqtt.Result {
    const words = switch (why) {
        error.NoFrame => "it does not begin with 0xA5",
        error.UnknownVersion => "its version is not 1",
        error.CutShort => "it is cut short",
        error.WrongChecksum => "its checksum is wrong",
        error.OutOfMemory => @panic("out of memory"),
    };
    const message = std.fmt.allocPrint(wasmqtt.allocator, "frame {d}, at byte {d}: {s}", .{ frame + 1, at, words });
    return .{ .reject = message catch words };
}

test decode {
    var text: std.ArrayList(u8) = .empty;
    const frame = "\xA5\x01\x2A\x00\x00\x00\x00\x00\x00\x00\x01\x01\xEB\x00";
    var whole: [frame.len + 2]u8 = (frame ++ "  ").*;
    std.mem.writeInt(u16, whole[frame.len..], std.hash.crc.@"CRC-16/XMODEM".hash(frame), .little);
    try std.testing.expectEqual(whole.len, try decode(&whole, &text));
    try std.testing.expectEqualStrings("{\"device\":\"0000002a\",\"time\":0,\"temperature\":23.5}\n", text.items);
    whole[13] ^= 1;
    try std.testing.expectError(error.WrongChecksum, decode(&whole, &text));
    try std.testing.expectError(error.CutShort, decode(whole[0..15], &text));
}
