;; The world `wasmqtt:task/task` bare: a task in WebAssembly text, with no SDK and no import. It answers its
;; input with the ASCII letters in upper case.
;;
;; What the world asks of a core module is its three exports: `memory`, `cabi_realloc` and `run`. The canonical
;; ABI says what the numbers mean:
;; https://github.com/WebAssembly/component-model/blob/main/design/mvp/CanonicalABI.md
(module
  ;; One page of 64 KiB. The result lies at 0, what the runner hands over from 64 on.
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 64))

  ;; The runner calls this for room for every string and list that it passes, before it calls `run`. An
  ;; instance runs one task and is dropped: so nothing is ever freed, and nothing ever grows in place.
  (func (export "cabi_realloc")
    (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    ;; free = at + size, rounded up to a multiple of 8, the largest alignment that there is
    (global.set $free
      (i32.and (i32.add (i32.add (local.get $at) (local.get $size)) (i32.const 7)) (i32.const -8)))
    ;; grow to hold it, page by page, or trap when the task's memory limit is reached
    (loop $more
      (if (i32.lt_u (i32.shl (memory.size) (i32.const 16)) (global.get $free))
        (then
          (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (unreachable)))
          (br $more))))
    (local.get $at))

  ;; run: func(task: context, input: list<u8>) -> result<output, error>
  (func (export "run")
    ;; task: context, a record, flattened into its fields; a string or a list is its address and its length
    (param $id i32) (param $id_len i32)
    (param $tenant i32) (param $tenant_len i32)
    (param $module i32) (param $module_len i32)
    (param $attempt i32)
    (param $has_type i32) (param $type i32) (param $type_len i32)   ;; content-type: option<string>
    (param $deadline_ms i64)
    (param $labels i32) (param $labels_len i32)
    ;; input: list<u8>
    (param $input i32) (param $input_len i32)
    ;; the address of the result
    (result i32)

    (local $i i32) (local $byte i32)
    (loop $next
      (if (i32.lt_u (local.get $i) (local.get $input_len))
        (then
          (local.set $byte (i32.load8_u (i32.add (local.get $input) (local.get $i))))
          ;; 'a' <= byte <= 'z', in one unsigned comparison
          (if (i32.lt_u (i32.sub (local.get $byte) (i32.const 97)) (i32.const 26))
            (then
              (i32.store8
                (i32.add (local.get $input) (local.get $i))
                (i32.sub (local.get $byte) (i32.const 32)))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $next))))

    ;; result<output, error>, laid out in memory. The payload is aligned to 8, since an `error` may hold a u64.
    (i32.store8 offset=0 (i32.const 0) (i32.const 0))               ;; ok
    (i32.store offset=8 (i32.const 0) (local.get $input))           ;; output.data: the input, changed in place
    (i32.store offset=12 (i32.const 0) (local.get $input_len))
    (i32.store8 offset=16 (i32.const 0) (i32.const 0))              ;; output.content-type: none
    (i32.const 0)))
