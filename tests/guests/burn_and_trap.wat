;; Burns about 700,000 units of fuel, less than one turn, and divides by zero: wasmtime loses what was burnt since it last
;; looked.
(module
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 64))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (global.get $free)
    (global.set $free
      (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 7)) (i32.const -8))))

  (func (export "run")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32) (result i32)
    (local $n i32)
    (local.set $n (i32.const 130000))
    (loop $round
      (br_if $round (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.div_u (i32.const 1) (i32.sub (local.get 6) (local.get 6)))))
