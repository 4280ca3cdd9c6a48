;; Imports an interface that no runner offers. The function's type is not the real one; the runner refuses the name
;; before it looks at types.
(component
  (import "wasmqtt:task/types@0.1.0" (instance $types
    (type $bytes (list u8))
    (type $labels (list (tuple string string)))
    (type $maybe (option string))
    (type $context (record
      (field "id" string) (field "tenant" string) (field "module" string) (field "attempt" u32)
      (field "content-type" $maybe) (field "deadline-ms" u64) (field "labels" $labels)))
    (export "context" (type (eq $context)))
    (type $output (record (field "data" $bytes) (field "content-type" $maybe)))
    (export "output" (type (eq $output)))
    (type $retry-after (record (field "message" string) (field "delay-ms" u64)))
    (export "retry-after" (type $retry (eq $retry-after)))
    (type $error (variant
      (case "reject" string) (case "retry-after" $retry) (case "failed" string)))
    (export "error" (type (eq $error)))))
  (alias export $types "context" (type $context))
  (alias export $types "output" (type $output))
  (alias export $types "error" (type $error))
  (import "wasi:blobstore/blobstore@0.2.0-draft" (instance (export "create-container" (func))))

  (core module $task
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 64))
    (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (global.get $free)
      (global.set $free
        (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 7)) (i32.const -8))))
    (func (export "run")
      (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32) (result i32)
      ;; Memory starts as zeroes: that is `ok` with no bytes.
      (i32.const 0)))
  (core instance $main (instantiate $task))

  (alias core export $main "memory" (core memory $memory))
  (alias core export $main "cabi_realloc" (core func $realloc))
  (alias core export $main "run" (core func $lifted))
  (type $input (list u8))
  (type $result (result $output (error $error)))
  (func $run (param "task" $context) (param "input" $input) (result $result)
    (canon lift (core func $lifted) (memory $memory) (realloc $realloc)))
  (export "run" (func $run)))
