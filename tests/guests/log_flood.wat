;; Logs lines of 1 KiB for ever.
(module
  (import "wasmqtt:task/host@0.1.0" "log" (func $log (param i32 i32 i32)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 2048))
  (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
    (global.get $free)
    (global.set $free
      (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 7)) (i32.const -8))))

  (func (export "run")
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32) (result i32)
    (memory.fill (i32.const 64) (i32.const 120) (i32.const 1024))  ;; "xxx…"
    (loop $again
      (call $log (i32.const 2) (i32.const 64) (i32.const 1024))     ;; level.info, the address, the length
      (br $again))
    (unreachable)))
