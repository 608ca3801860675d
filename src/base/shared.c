/*
 * shared.c
 *		Areas of shared memory, each with a lock of its own.
 *
 * An area is asked for at load, by the folder that owns it; its memory is there,
 * zeroed, from the server's start on, and survives a crash of a backend only as
 * zeroes again.
 */
#include "base/base.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#define MAX_AREAS 16

typedef struct SharedArea
{
	const char *name;
	Size		size;
	void	  **memory;
	LWLock	  **lock;
} SharedArea;

static SharedArea areas[MAX_AREAS];
static int	areas_count = 0;
static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

static void
request_memory(void)
{
	if (previous_request_hook)
		previous_request_hook();
	for (int i = 0; i < areas_count; i++)
	{
		RequestAddinShmemSpace(areas[i].size);
		RequestNamedLWLockTranche(areas[i].name, 1);
	}
}

static void
attach_memory(void)
{
	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < areas_count; i++)
	{
		bool		found;

		*areas[i].memory = ShmemInitStruct(areas[i].name, areas[i].size, &found);
		if (!found)
			memset(*areas[i].memory, 0, areas[i].size);
		*areas[i].lock = &GetNamedLWLockTranche(areas[i].name)->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}

void
dbscale_shared_area(const char *name, Size size, void **memory, struct LWLock **lock)
{
	SharedArea *area = &areas[areas_count++];

	Assert(areas_count <= MAX_AREAS);
	area->name = name;
	area->size = size;
	area->memory = memory;
	area->lock = lock;
	if (areas_count > 1)
		return;
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_memory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_memory;
}
