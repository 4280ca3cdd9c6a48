;; Sixteen core modules with a memory each, and each grows it by 16 MiB: 256 MiB in all, with no memory above
;; 17 MiB. A limit on a single memory lets it through; one on their sum ends it in `memory_exceeded`.
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

  ;; Grows its own memory and hands on to the next.
  (core module $hog
    (import "next" "eat" (func $next))
    (memory 1)
    (func (export "eat")
      (if (i32.eq (memory.grow (i32.const 256)) (i32.const -1)) (then (unreachable)))
      (call $next)))
  (core module $end (func (export "eat")))

  (core instance $hog0 (instantiate $end))
  (core instance $hog1 (instantiate $hog (with "next" (instance $hog0))))
  (core instance $hog2 (instantiate $hog (with "next" (instance $hog1))))
  (core instance $hog3 (instantiate $hog (with "next" (instance $hog2))))
  (core instance $hog4 (instantiate $hog (with "next" (instance $hog3))))
  (core instance $hog5 (instantiate $hog (with "next" (instance $hog4))))
  (core instance $hog6 (instantiate $hog (with "next" (instance $hog5))))
  (core instance $hog7 (instantiate $hog (with "next" (instance $hog6))))
  (core instance $hog8 (instantiate $hog (with "next" (instance $hog7))))
  (core instance $hog9 (instantiate $hog (with "next" (instance $hog8))))
  (core instance $hog10 (instantiate $hog (with "next" (instance $hog9))))
  (core instance $hog11 (instantiate $hog (with "next" (instance $hog10))))
  (core instance $hog12 (instantiate $hog (with "next" (instance $hog11))))
  (core instance $hog13 (instantiate $hog (with "next" (instance $hog12))))
  (core instance $hog14 (instantiate $hog (with "next" (instance $hog13))))
  (core instance $hog15 (instantiate $hog (with "next" (instance $hog14))))
  (core instance $hog16 (instantiate $hog (with "next" (instance $hog15))))

  (core module $task
    (import "hog" "eat" (func $eat))
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 64))
    (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (global.get $free)
      (global.set $free
        (i32.and (i32.add (i32.add (global.get $free) (local.get $size)) (i32.const 7)) (i32.const -8))))
    (func (export "run")
      (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32 i32 i32 i32) (result i32)
      (call $eat)
      ;; Memory starts as zeroes: that is `ok` with no bytes.
      (i32.const 0)))
  (core instance $main (instantiate $task (with "hog" (instance $hog16))))

  (alias core export $main "memory" (core memory $memory))
  (alias core export $main "cabi_realloc" (core func $realloc))
  (alias core export $main "run" (core func $lifted))
  (type $input (list u8))
  (type $result (result $output (error $error)))
  (func $run (param "task" $context) (param "input" $input) (result $result)
    (canon lift (core func $lifted) (memory $memory) (realloc $realloc)))
  (export "run" (func $run)))
