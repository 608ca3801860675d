/*
 * key_type.c
 *		The types a hash key may have: their hash, their equality, their text.
 */
#include "routing/router.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/typcache.h"

/* varchar has no operators of its own: its class is text's. */
static const KeyTypeFamily families[] = {
	{3, {INT8OID, INT4OID, INT2OID}},
	{1, {TEXTOID}},
	{1, {BPCHAROID}},
	{1, {UUIDOID}},
	{1, {NUMERICOID}},
	{1, {DATEOID}},
	{1, {TIMESTAMPOID}},
	{1, {TIMESTAMPTZOID}},
	{1, {BYTEAOID}},
};

const KeyTypeFamily *
dbscale_key_type_family(Oid type)
{
	if (type == VARCHAROID)
		type = TEXTOID;
	for (int i = 0; i < lengthof(families); i++)
	{
		for (int j = 0; j < families[i].ntypes; j++)
		{
			if (families[i].types[j] == type)
				return &families[i];
		}
	}
	return NULL;
}

bool
dbscale_type_is_hashable(Oid type)
{
	return dbscale_key_type_family(type) != NULL;
}

static bool
is_integer(Oid type)
{
	return type == INT8OID || type == INT4OID || type == INT2OID;
}

void
dbscale_hasher_init(KeyHasher *hasher, Oid type, Oid collation)
{
	TypeCacheEntry *entry;

	hasher->type = is_integer(type) ? INT8OID : type;
	hasher->collation = InvalidOid;
	hasher->equivalence = InvalidOid;
	if (OidIsValid(get_typcollation(type)))
	{
		hasher->collation = OidIsValid(collation) ? collation : DEFAULT_COLLATION_OID;
		if (!get_collation_isdeterministic(hasher->collation))
			hasher->equivalence = hasher->collation;
	}

	entry = lookup_type_cache(hasher->type,
							  TYPECACHE_EQ_OPR_FINFO | TYPECACHE_HASH_EXTENDED_PROC_FINFO);
	if (!OidIsValid(entry->eq_opr_finfo.fn_oid) ||
		!OidIsValid(entry->hash_extended_proc_finfo.fn_oid))
		elog(ERROR, "type %u has no hash functions", type);
	hasher->equal = &entry->eq_opr_finfo;
	hasher->hash = &entry->hash_extended_proc_finfo;
}

Datum
dbscale_hasher_key(const KeyHasher *hasher, Oid from, Datum key)
{
	if (from == INT4OID)
		return Int64GetDatum(DatumGetInt32(key));
	if (from == INT2OID)
		return Int64GetDatum(DatumGetInt16(key));
	return key;
}

uint64
dbscale_hasher_hash(const KeyHasher *hasher, Datum key)
{
	return DatumGetUInt64(FunctionCall2Coll(hasher->hash, hasher->collation,
											key, Int64GetDatum(0)));
}

bool
dbscale_hasher_equal(const KeyHasher *hasher, Datum a, Datum b)
{
	return DatumGetBool(FunctionCall2Coll(hasher->equal, hasher->collation, a, b));
}

uint32
dbscale_hash_key(Oid type, Oid collation, Datum key)
{
	KeyHasher	hasher;

	dbscale_hasher_init(&hasher, type, collation);
	return (uint32) (dbscale_hasher_hash(&hasher, dbscale_hasher_key(&hasher, type, key)) >> 32);
}

/*
 * Settings change how dates and bytea are printed; the directory wants one form.
 * Of forms that are equal (1.0 and 1.00, blanks at a char's end) it takes the shortest.
 */
char *
dbscale_key_to_text(Oid type, Datum key)
{
	int			saved_style = DateStyle;
	int			saved_order = DateOrder;
	int			saved_bytea = bytea_output;
	pg_tz	   *saved_zone = session_timezone;
	pg_tz	   *utc = pg_tzset("UTC");
	char	   *volatile text = NULL;
	Oid			output;
	bool		is_varlena;

	getTypeOutputInfo(type, &output, &is_varlena);
	PG_TRY();
	{
		DateStyle = USE_ISO_DATES;
		DateOrder = DATEORDER_MDY;
		bytea_output = BYTEA_OUTPUT_HEX;
		session_timezone = utc;
		text = OidOutputFunctionCall(output, type == NUMERICOID ?
									 DirectFunctionCall1(numeric_trim_scale, key) : key);
	}
	PG_FINALLY();
	{
		DateStyle = saved_style;
		DateOrder = saved_order;
		bytea_output = saved_bytea;
		session_timezone = saved_zone;
	}
	PG_END_TRY();

	if (type == BPCHAROID)
	{
		int			length = strlen(text);

		while (length > 0 && text[length - 1] == ' ')
			text[--length] = '\0';
	}
	return text;
}

/* The form above reads the same under all settings. */
Datum
dbscale_key_from_text(Oid type, const char *text)
{
	Oid			input;
	Oid			param;

	getTypeInputInfo(type, &input, &param);
	return OidInputFunctionCall(input, unconstify(char *, text), param, -1);
}
