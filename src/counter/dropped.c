/*
 * dropped.c
 *		What a statement drops of what counters stand on.
 *
 * A table of a counter goes by its name, by CASCADE, with its schema or its owner; so
 * does what a counter needs of a table that stays: a column, the unique index, a foreign
 * key, our triggers.  Nobody can tell by the statement's text.  But PostgreSQL tells
 * every object that it is about to drop (object_access_hook, OAT_DROP).  While a
 * statement that can drop runs there is a *watch*, which collects what concerns counters;
 * hook.c asks it afterwards.  An example, DROP TYPE mood CASCADE, where likes.felt is of
 * that type: the watch is told of likes.felt and of public.mood.  Afterwards the counters
 * of likes are looked at that read column felt or have a filter, and those whose filter
 * says public.mood.
 *
 *	1. Nothing else is looked at.  So a statement that drops nothing of a counter reads
 *	   dbscale.counter, as it is in its snapshot, and opens and locks none of the tables:
 *	   it does not wait for DDL on these, nor does it fail because of it, and it has
 *	   nothing that such DDL could wait for.
 *
 *	2. A table that goes.  Afterwards nothing is left by which to find what was made for
 *	   its counters, so they are noted when the first object of it is told.  A DROP takes
 *	   the locks of all that it is going to drop before the first of it goes, so the
 *	   table is locked against everybody by then.  Whoever makes, drops, suspends or
 *	   resumes a counter locks both its tables, so the catalog has the counters as they
 *	   are until our transaction ends.  (Before the statement would be too early: it may
 *	   wait for who is just making a counter, or distributing the table.  So would be
 *	   the snapshot of a transaction that is REPEATABLE READ.)
 *	   Our triggers, by which functions here are found, go before their table; so they
 *	   are watched for as well.
 *
 *	3. What goes of a table that stays.  That table's lock is taken with the object, in
 *	   the worst case (a trigger that goes with its function) after we were told.  Only
 *	   what is gone is noted then; which counters that harms is asked after the
 *	   statement, when the lock is held, to the transaction's end.
 *
 *	4. DROP INDEX CONCURRENTLY works in transactions of its own, so afterwards would be
 *	   too late: it is checked when it is told.  Its lock on the table (ShareUpdate-
 *	   Exclusive) is held to its end, and keeps out others like it, create_counter and
 *	   all that changes a key; so two of them see each other.
 *
 *	5. Filters are text, of built-in functions and operators, but may name other objects
 *	   (types, collations, constants of type regconfig), always with their schema.
 *	   There is no dependency, so nothing has a lock: who creates a counter while its
 *	   type is being dropped will have an error at the first write.
 *
 *	6. DROP OWNED and REASSIGN OWNED also revoke privileges and give tables away, of which
 *	   nothing is told: pg_shdepend is asked before for the tables that have something to
 *	   do with these roles (hook.c).
 *
 *	7. When the extension goes, its tables may go before those that have counters.  Then
 *	   there is nobody to keep them, so nothing is noted once dbscale.counter is gone.
 */
#include "counter/groups.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "planner/ship.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* A counter as it is before one of its tables goes. */
typedef struct Noted
{
	Counter    *counter;
	List	   *places;			/* of its target */
	List	   *source_places;
	List	   *target_functions;	/* lists of commands, parallel to the places */
	List	   *source_functions;
} Noted;

/* What is gone of a table that stays. */
typedef struct Part
{
	Oid			relid;
	Oid			referenced;		/* a foreign key's, or */
	char	   *column;			/* or */
	char	   *trigger;		/* one of ours; none of them: a unique index */
} Part;

/* All in the memory context of whoever watches. */
struct CounterWatch
{
	CounterWatch *outer;
	MemoryContext context;
	List	   *relids;			/* tables whose counters have been noted */
	List	   *noted;			/* of Noted *: 2 */
	List	   *parts;			/* of Part *: 3 */
	List	   *names;			/* of char *, as a filter has them: 5 */
};

static CounterWatch *watch = NULL;
static object_access_hook_type previous_hook = NULL;

/* ---- told by PostgreSQL ---- */

static bool
is_our_trigger(const char *name)
{
	for (int i = 0; i < lengthof(dbscale_counter_source_triggers); i++)
		if (strcmp(name, dbscale_counter_source_triggers[i]) == 0)
			return true;
	for (int i = 0; i < lengthof(dbscale_counter_target_triggers); i++)
		if (strcmp(name, dbscale_counter_target_triggers[i]) == 0)
			return true;
	return false;
}

/* 7 */
static bool
catalog_is_there(void)
{
	Oid			schema = get_namespace_oid(DBSCALE_SCHEMA, true);

	return OidIsValid(schema) && OidIsValid(get_relname_relid("counter", schema));
}

static bool
is_gone(const Counter *counter)
{
	return get_rel_name(counter->target) == NULL || get_rel_name(counter->source) == NULL;
}

static bool
is_noted(const char *name)
{
	ListCell   *lc;

	foreach(lc, watch->noted)
		if (strcmp(((Noted *) lfirst(lc))->counter->name, name) == 0)
			return true;
	return false;
}

/* Triggers go with their table; their functions do not. */
static List *
functions_at(List *places, Oid relid)
{
	List	   *functions = NIL;
	ListCell   *lc;

	foreach(lc, places)
		functions = lappend(functions, dbscale_counter_drop_functions_sql(lfirst(lc), relid));
	return functions;
}

/* Where one of the tables has been gone for longer, or the counter is suspended, nothing was made. */
static Noted *
note(Counter *counter)
{
	Noted	   *noted = palloc0(sizeof(Noted));

	noted->counter = counter;
	if (counter->suspended || is_gone(counter))
		return noted;
	noted->places = dbscale_counter_places(counter->target);
	noted->source_places = dbscale_counter_places(counter->source);
	noted->target_functions = functions_at(noted->places, counter->target);
	noted->source_functions = functions_at(noted->source_places, counter->source);
	return noted;
}

/* 2: the counters of a table that may be going. */
static void
note_counters(Oid relid)
{
	ListCell   *lc;

	if (list_member_oid(watch->relids, relid))
		return;
	watch->relids = lappend_oid(watch->relids, relid);
	foreach(lc, dbscale_counter_list_names(psprintf("%u IN (source, target)", relid)))
		if (!is_noted(((Counter *) lfirst(lc))->name))
			watch->noted = lappend(watch->noted, note(lfirst(lc)));
}

static Part *
add_part(Oid relid)
{
	Part	   *part = palloc0(sizeof(Part));

	part->relid = relid;
	watch->parts = lappend(watch->parts, part);
	return part;
}

static void
index_goes(Oid index, bool concurrently)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	Form_pg_index form;
	ListCell   *lc;
	Oid			relid;
	bool		unique;

	if (!HeapTupleIsValid(tuple))
		return;
	form = (Form_pg_index) GETSTRUCT(tuple);
	relid = form->indrelid;
	unique = form->indisunique;
	ReleaseSysCache(tuple);
	if (unique && !concurrently)
		(void) add_part(relid);
	else if (unique)
		foreach(lc, dbscale_counter_list_names(psprintf("target = %u", relid)))
			dbscale_counter_check_unique(lfirst(lc), index);
}

static void
relation_goes(HeapTuple tuple, int column, int flags)
{
	Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

	if (form->relkind == RELKIND_INDEX || form->relkind == RELKIND_PARTITIONED_INDEX)
		index_goes(form->oid, (flags & PERFORM_DELETION_CONCURRENTLY) != 0);
	else if ((form->relkind != RELKIND_RELATION && form->relkind != RELKIND_PARTITIONED_TABLE) ||
			 form->relpersistence != RELPERSISTENCE_PERMANENT)
		return;
	else if (column == 0)
		note_counters(form->oid);
	else
		add_part(form->oid)->column = get_attname(form->oid, column, false);
}

static void
constraint_goes(HeapTuple tuple, int column, int flags)
{
	Form_pg_constraint form = (Form_pg_constraint) GETSTRUCT(tuple);

	/* a unique constraint's index is told too */
	if (form->contype == CONSTRAINT_FOREIGN)
		add_part(form->conrelid)->referenced = form->confrelid;
}

static void
trigger_goes(HeapTuple tuple, int column, int flags)
{
	Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

	if (form->tgisinternal || !is_our_trigger(NameStr(form->tgname)))
		return;
	note_counters(form->tgrelid);
	add_part(form->tgrelid)->trigger = pstrdup(NameStr(form->tgname));
}

/* What a filter says between the two types may mean nothing without it. */
static void
cast_goes(HeapTuple tuple, int column, int flags)
{
	Form_pg_cast form = (Form_pg_cast) GETSTRUCT(tuple);

	if (!dbscale_ship_is_builtin(form->castsource))
		watch->names = lappend(watch->names, format_type_be_qualified(form->castsource));
	if (!dbscale_ship_is_builtin(form->casttarget))
		watch->names = lappend(watch->names, format_type_be_qualified(form->casttarget));
}

static const struct
{
	Oid			class;
	void		(*goes) (HeapTuple tuple, int column, int flags);
}			classes[] =
{
	{CastRelationId, cast_goes},
	{ConstraintRelationId, constraint_goes},
	{RelationRelationId, relation_goes},
	{TriggerRelationId, trigger_goes},
};

/* 5; all that has a schema can be named. */
static void
note_name(Relation catalog, HeapTuple tuple)
{
	Oid			class = RelationGetRelid(catalog);
	AttrNumber	schema = get_object_attnum_namespace(class);
	bool		isnull;
	Datum		oid;
	Datum		name;

	if (schema == InvalidAttrNumber || get_object_attnum_name(class) == InvalidAttrNumber)
		return;
	oid = heap_getattr(tuple, schema, RelationGetDescr(catalog), &isnull);
	name = heap_getattr(tuple, get_object_attnum_name(class), RelationGetDescr(catalog), &isnull);
	if (OidIsValid(DatumGetObjectId(oid)))
		watch->names = lappend(watch->names, quote_qualified_identifier(get_namespace_name(DatumGetObjectId(oid)),
																		NameStr(*DatumGetName(name))));
}

typedef struct Told
{
	Oid			class;
	Oid			object;
	int			column;
	int			flags;
} Told;

static void
object_goes(void *argument)
{
	const Told *told = argument;
	Relation	catalog = table_open(told->class, AccessShareLock);
	HeapTuple	tuple = get_catalog_object_by_oid(catalog, get_object_attnum_oid(told->class), told->object);

	if (HeapTupleIsValid(tuple))
	{
		for (int i = 0; i < lengthof(classes); i++)
			if (classes[i].class == told->class)
				classes[i].goes(tuple, told->column, told->flags);
		if (told->column == 0)
			note_name(catalog, tuple);
	}
	table_close(catalog, AccessShareLock);
}

static void
object_access(ObjectAccessType access, Oid class, Oid object, int column, void *arg)
{
	Told		told = {class, object, column};
	MemoryContext caller;
	Oid			user;
	int			security;

	if (previous_hook)
		previous_hook(access, class, object, column, arg);
	if (access != OAT_DROP || watch == NULL || dbscale_counter_internal > 0 || !is_objectclass_supported(class) ||
		get_object_attnum_oid(class) == InvalidAttrNumber || !catalog_is_there())
		return;
	told.flags = ((ObjectAccessDrop *) arg)->dropflags;
	caller = MemoryContextSwitchTo(watch->context);
	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(dbscale_extension_owner(), security | SECURITY_LOCAL_USERID_CHANGE);
	dbscale_counter_with_latest(object_goes, &told);
	SetUserIdAndSecContext(user, security);
	MemoryContextSwitchTo(caller);
}

/* ---- asked by hook.c ---- */

CounterWatch *
dbscale_counter_watch(void)
{
	CounterWatch *inner = palloc0(sizeof(CounterWatch));

	inner->context = CurrentMemoryContext;
	inner->outer = watch;
	watch = inner;
	return inner;
}

void
dbscale_counter_unwatch(CounterWatch *ended)
{
	watch = ended->outer;
}

/* The places on nodes that are not disabled; where the table is gone, its functions go too. */
static List *
drop_functions(CounterBatch *batch, Oid relid, List *places, List *functions)
{
	List	   *enabled = NIL;

	for (int i = 0; i < list_length(places); i++)
	{
		CounterPlace *place = list_nth(places, i);

		if (place->group && !place->shard->node->enabled)
			continue;
		enabled = lappend(enabled, place);
		if (get_rel_name(relid) == NULL)
			dbscale_counter_send_all(batch, place, InvalidOid, list_nth(functions, i));
	}
	return enabled;
}

/* A counter whose tables, or one of them, are gone; nodes that are disabled keep what they have. */
static void
drop_rest(const Noted *noted)
{
	CounterBatch *batch = dbscale_counter_batch();
	const Counter *counter = noted->counter;
	List	   *targets = drop_functions(batch, counter->target, noted->places, noted->target_functions);
	List	   *sources = drop_functions(batch, counter->source, noted->source_places, noted->source_functions);

	(void) dbscale_counter_finish(batch);
	dbscale_counter_drop(counter, targets, sources);
}

static bool
has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (name && strcmp(lfirst(lc), name) == 0)
			return true;
	return false;
}

/* Would this counter of the table miss the part? */
static bool
needs(const Counter *counter, const Part *part)
{
	bool		is_source = counter->source == part->relid;
	bool		is_target = counter->target == part->relid;

	if (part->trigger)
		return true;
	if (OidIsValid(part->referenced))
		return is_source && counter->target == part->referenced;
	/* the other table is left alone if another index does; shards' foreign keys may have gone with this one */
	if (part->column == NULL)
		return is_target && (dbscale_counter_is_sharded(part->relid) || !dbscale_counter_is_unique(counter, InvalidOid));
	return (is_source && (counter->filter || has_name(counter->source_key, part->column) ||
						  (counter->value && strcmp(counter->value, part->column) == 0))) ||
		(is_target && (has_name(counter->target_key, part->column) || strcmp(counter->column, part->column) == 0));
}

/* 3: those of a table that stays which need what is gone. */
static List *
counters_of_part(const Part *part)
{
	List	   *counters = NIL;
	ListCell   *lc;

	if (get_rel_name(part->relid) == NULL)
		return NIL;
	foreach(lc, dbscale_counter_list_names(psprintf("%u IN (source, target) AND NOT suspended", part->relid)))
		if (needs(lfirst(lc), part))
			counters = lappend(counters, lfirst(lc));
	return counters;
}

static List *
harmed_by_part(const Part *part)
{
	List	   *harmed = NIL;
	ListCell   *lc;

	foreach(lc, part->trigger ? NIL : counters_of_part(part))
		harmed = lappend(harmed, (void *) ((Counter *) lfirst(lc))->name);
	return harmed;
}

/* Is the name there, and not only the beginning of a longer one? */
static bool
says(const char *filter, const char *name)
{
	for (const char *at = strstr(filter, name); at; at = strstr(at + 1, name))
	{
		unsigned char next = at[strlen(name)];

		if (!isalnum(next) && next != '_' && next != '$' && !IS_HIGHBIT_SET(next))
			return true;
	}
	return false;
}

/* 5 */
static List *
harmed_by_names(List *names)
{
	List	   *counters = NIL;
	ListCell   *lc;
	ListCell   *lc2;

	if (names == NIL)
		return NIL;
	foreach(lc, dbscale_counter_query_rows("SELECT counter, filter FROM dbscale.counter WHERE filter ~ '\\.'", NULL))
		foreach(lc2, names)
			if (says(((char **) lfirst(lc))[1], lfirst(lc2)))
			{
				counters = lappend(counters, ((char **) lfirst(lc))[0]);
				break;
			}
	return counters;
}

List *
dbscale_counter_dropped(const CounterWatch *ended)
{
	List	   *harmed = NIL;
	ListCell   *lc;

	/* all of them first: what is made anew below must not speak of them */
	foreach(lc, ended->noted)
		if (is_gone(((Noted *) lfirst(lc))->counter))
			dbscale_counter_forget(((Noted *) lfirst(lc))->counter);
	foreach(lc, ended->noted)
		if (is_gone(((Noted *) lfirst(lc))->counter))
			drop_rest(lfirst(lc));
	foreach(lc, ended->parts)
		harmed = list_concat(harmed, harmed_by_part(lfirst(lc)));
	return list_concat(harmed, harmed_by_names(ended->names));
}

void
dbscale_counter_refuse_triggers(const CounterWatch *ended)
{
	ListCell   *lc;

	foreach(lc, ended->parts)
	{
		const Part *part = lfirst(lc);
		List	   *counters = part->trigger ? counters_of_part(part) : NIL;

		if (counters == NIL)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop trigger \"%s\" of table \"%s\"", part->trigger, get_rel_name(part->relid)),
				 errdetail("Counter \"%s\" is kept by it.", ((Counter *) linitial(counters))->name),
				 errhint("Use dbscale.drop_counter('%s').", ((Counter *) linitial(counters))->name)));
	}
}

void
dbscale_counter_dropped_init(void)
{
	previous_hook = object_access_hook;
	object_access_hook = object_access;
}
