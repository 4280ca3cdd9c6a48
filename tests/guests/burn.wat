;; Burns about as many units of fuel as the decimal number in the input says, then answers "done". For load
;; tests.
(module
  (memory (export "memory") 1)
  (data (i32.const 64) "done")
  (global $free (mut i32) (i32.const 128))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (global.get $free)
    (global.set $free
      (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 7)) (i32.const -8))))

  (func (export "run")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32)
    (param $input i32) (param $input_len i32) (result i32)
    (local $i i32) (local $n i64)
    ;; n = the number; what is no digit ends it
    (block $parsed
      (loop $digit
        (br_if $parsed (i32.ge_u (local.get $i) (local.get $input_len)))
        (br_if $parsed
          (i32.gt_u
            (i32.sub (i32.load8_u (i32.add (local.get $input) (local.get $i))) (i32.const 48))
            (i32.const 9)))
        (local.set $n
          (i64.add
            (i64.mul (local.get $n) (i64.const 10))
            (i64.extend_i32_u
              (i32.sub (i32.load8_u (i32.add (local.get $input) (local.get $i))) (i32.const 48)))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $digit)))

    ;; A round is seven instructions, and wasmtime takes a unit for each.
    (local.set $n (i64.div_u (local.get $n) (i64.const 7)))
    (block $burnt
      (br_if $burnt (i64.eqz (local.get $n)))
      (loop $round
        (br_if $round
          (i64.ne
            (local.tee $n (i64.sub (local.get $n) (i64.const 1)))
            (i64.const 0)))))

    (i32.store offset=8 (i32.const 0) (i32.const 64))    ;; output.data: the address
    (i32.store offset=12 (i32.const 0) (i32.const 4))    ;; and the length
    (i32.const 0)))
