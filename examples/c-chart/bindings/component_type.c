// What wit-bindgen's task.c asks to be linked. The world is written into the module by `wasmqtt build`.
void __component_type_object_force_link_task(void);
void __component_type_object_force_link_task(void) {}
