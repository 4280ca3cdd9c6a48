;; Grows its memory a MiB at a time and writes to every MiB, until it gets no more.
(module
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 64))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (global.get $free)
    (global.set $free
      (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 7)) (i32.const -8))))

  (func (export "run")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32) (result i32)
    (local $at i32)
    (loop $more
      (local.set $at (memory.grow (i32.const 16)))
      (if (i32.ne (local.get $at) (i32.const -1))
        (then
          (i32.store (i32.shl (local.get $at) (i32.const 16)) (i32.const 1))
          (br $more))))
    ;; What an allocator does that gets no memory.
    (unreachable)))
