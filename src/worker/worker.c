/*
 * worker.c
 *		Load of this folder: shared memory, hooks, and the launcher.
 */
#include "worker/registry.h"

void
dbscale_worker_init(void)
{
	dbscale_registry_init();
	dbscale_deadlock_init();
	dbscale_databases_init();
	dbscale_launcher_register();
}
