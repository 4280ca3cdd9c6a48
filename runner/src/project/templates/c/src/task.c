// The task: bytes in, bytes out, called once in a fresh sandbox. What is passed is in bindings/task.h.
//
// An instance runs one task and is dropped, so nothing need be freed. What is given back is freed for you, so it must
// come from malloc or from task_string_dup: never a literal.

#include <ctype.h>
#include <stdio.h>

#include "task.h"

static void log_info(const task_context_t *task, size_t len) {
    static char line[128];
    int written = snprintf(line, sizeof line, "%zu bytes for task %.*s", len, (int)task->id.len, (char *)task->id.ptr);
    task_string_t message = {(uint8_t *)line, (size_t)written};
    wasmqtt_task_host_log(WASMQTT_TASK_HOST_LEVEL_INFO, &message);
}

// True: what it gives back is in `output`. False: why not is in `error`.
bool exports_task_run(task_context_t *task, task_list_u8_t *input, task_output_t *output, task_error_t *error) {
    if (input->len == 0) {
        // The input is wrong and always will be: no retry.
        error->tag = WASMQTT_TASK_TYPES_ERROR_REJECT;
        task_string_dup(&error->val.reject, "the input is empty");
        return false;
    }
    log_info(task, input->len);
    for (size_t i = 0; i < input->len; i++) {
        input->ptr[i] = (uint8_t)toupper(input->ptr[i]);
    }
    output->data = *input;
    output->content_type.is_some = true;
    task_string_dup(&output->content_type.val, "text/plain");
    return true;
}
