;; Takes memory a MiB at a time until it gets no more: for a runner to stop at the limit.
;; ../shout/shout.wat explains the parts.
(module
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 64))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (global.get $free)
    (global.set $free
      (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 7)) (i32.const -8))))

  (func (export "run")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32) (result i32)
    (loop $more
      (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    ;; What an allocator does that gets no memory.
    (unreachable)))
