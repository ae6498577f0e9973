"""A short report in many languages, each a sentence a line: a pump fails, waits for parts and is repaired.

Written for these tests. The first two sentences are a short document, all of them a longer one.
"""

from __future__ import annotations

PROSE: dict[str, str] = {
    "Amharic": """የውሃ ማከፋፈያው ጣቢያ ማክሰኞ ጠዋት ተፈተሸ፣ ሁለተኛው ቫልቭም ሙሉ በሙሉ እንደማይዘጋ ባለሙያው አገኘ።
መለዋወጫ ስላልነበረ ጥገናው እስከ ሳምንቱ መጨረሻ ድረስ መጠበቅ ነበረበት።
በዚህ ጊዜ ውስጥ በቧንቧው ያለው ግፊት በየሰዓቱ ተለክቶ በመዝገብ ላይ ተጻፈ።
ዓርብ ዕለት ሁለት መካኒኮች ማኅተሙን ቀየሩ፣ ማጣሪያውን አጸዱ፣ ማሽኑንም እንደገና አስነሱ።
ከዚያ ወዲህ ውሃው በእኩል ይፈሳል፣ በመንደሩ ውስጥ ማንም ቅሬታ አላቀረበም።
ሌሎች ጣቢያዎች እንዲማሩበት ሥራ አስኪያጁ አጭር ሪፖርት ጠየቀ።
በሚቀጥለው ዓመት ደግሞ አሮጌዎቹ ቧንቧዎች በሙሉ እንዲቀየሩ ታቅዷል።""",
    "Arabic": """فُحصت محطة الضخ صباح يوم الثلاثاء، ووجد العامل أن الصمام الثاني لم يعد يُغلق تماما.
ولأن قطع الغيار لم تكن متوفرة، كان على الإصلاح أن ينتظر حتى نهاية الأسبوع.
في هذه الأثناء قيس الضغط في الأنبوب كل ساعة وسُجل في الدفتر.
وفي يوم الجمعة غيّر عاملان الحشية ونظفا المرشح ثم شغلا الآلة من جديد.
منذ ذلك الحين يجري الماء بانتظام، ولم يشتك أحد من أهل القرية.
طلب المدير تقريرا قصيرا، كي تتعلم منه المحطات الأخرى.
ومن المقرر أن تُستبدل الأنابيب القديمة كلها في العام القادم.""",
    "Armenian": """Պոմպակայանը ստուգվել է երեքշաբթի առավոտյան, և օպերատորը պարզել է, որ երկրորդ փականն այլևս լրիվ չի փակվում։
Քանի որ պահեստամասեր չկային, վերանորոգումը պետք է սպասեր մինչև շաբաթվա վերջ։
Այդ ընթացքում խողովակի ճնշումը չափվում էր ամեն ժամ և գրանցվում մատյանում։
Ուրբաթ օրը երկու մեխանիկ փոխեցին միջադիրը, մաքրեցին զտիչը և նորից գործարկեցին մեքենան։
Այդ օրվանից ջուրը հոսում է հավասարաչափ, և գյուղում ոչ ոք չի բողոքել։
Տնօրենը խնդրեց կարճ հաշվետվություն, որպեսզի մյուս կայանները նույնպես սովորեն դրանից։""",
    "Bengali": """মঙ্গলবার সকালে পাম্প স্টেশনটি পরীক্ষা করা হয়, এবং অপারেটর দেখেন যে দ্বিতীয় ভালভটি আর পুরোপুরি বন্ধ হয় না।
খুচরা যন্ত্রাংশ না থাকায় মেরামতের কাজ সপ্তাহের শেষ পর্যন্ত অপেক্ষা করে।
এর মধ্যে প্রতি ঘণ্টায় নলের চাপ মেপে খাতায় লেখা হতো।
শুক্রবার দুজন মিস্ত্রি সিলটি বদলালেন, ছাঁকনি পরিষ্কার করলেন এবং যন্ত্রটি আবার চালু করলেন।
তারপর থেকে জল সমানভাবে বইছে, আর গ্রামের কেউ অভিযোগ করেনি।
ব্যবস্থাপক একটি ছোট প্রতিবেদন চেয়েছেন, যাতে অন্য স্টেশনগুলি এখান থেকে শিখতে পারে।""",
    "Burmese": """အင်္ဂါနေ့နံနက်တွင် ရေစုပ်စက်ရုံကို စစ်ဆေးရာ ဒုတိယအဆို့ရှင်သည် လုံးဝမပိတ်တော့ကြောင်း စက်မောင်းသူက တွေ့ရှိခဲ့သည်။
အပိုပစ္စည်းများ မရှိသောကြောင့် ပြုပြင်ခြင်းကို သီတင်းပတ်ကုန်အထိ စောင့်ဆိုင်းခဲ့ရသည်။
ထိုအတောအတွင်း ပိုက်ထဲရှိ ဖိအားကို နာရီတိုင်း တိုင်းတာပြီး စာအုပ်ထဲတွင် ရေးမှတ်ခဲ့သည်။
သောကြာနေ့တွင် စက်ပြင်ဆရာနှစ်ဦးက ဖျာကိုလဲ၊ စစ်ကို သန့်စင်ကာ စက်ကို ပြန်လည်စတင်ခဲ့သည်။
ထိုအချိန်မှစ၍ ရေသည် ညီညာစွာ စီးဆင်းပြီး ရွာတွင် မည်သူမျှ မညည်းညူခဲ့ပါ။""",
    "Chinese": """星期二上午对泵站进行了检查，操作员发现第二个阀门已经不能完全关闭。
由于缺少备件，维修不得不等到周末才能进行。
在此期间，每小时测量一次管道中的压力，并记录在本子上。
星期五两名技工更换了密封圈，清洗了过滤器，然后重新启动了机器。
从那以后水流一直很平稳，村里没有人再抱怨。
经理要求写一份简短的报告，以便其他泵站从中学习。""",
    "English": """The pump station was checked on Tuesday morning, and the operator found that the second valve no longer closed.
Because spare parts were missing, the repair had to wait until the end of the week.
In the meantime the pressure in the pipe was measured every hour and written into the book.
On Friday two mechanics changed the seal, cleaned the filter and started the machine again.
Since then the water flows evenly, and nobody in the village has complained.""",
    "Finnish": """Pumppaamo tarkastettiin tiistaiaamuna, jolloin käyttöhenkilökunta havaitsi sulkuventtiilin vuotavan.
Varaosien puuttuessa korjaustyö jouduttiin siirtämään viikonloppuun.
Sillä välin putkiston painetta mitattiin tunneittain, ja mittaustulokset kirjattiin käyttöpäiväkirjaan.
Perjantaina kunnossapitoasentajat vaihtoivat akselitiivisteen, puhdistivat suodattimen ja käynnistivät laitteiston uudelleen.
Sen jälkeen vedenjakelu on toiminut häiriöttömästi, eikä kyläläisiltä ole tullut valituksia.
Käyttöpäällikkö pyysi lyhyen selvityksen, jotta muutkin vesilaitokset oppisivat tapauksesta.
Ensi vuonna vanhat valurautaputket uusitaan kokonaan muoviputkiksi kunnanvaltuuston päätöksen mukaisesti.
Vesihuoltosuunnitelmaa tarkistetaan samalla kertaa.""",
    "French": """La station de pompage a été contrôlée mardi matin, et l'opérateur a constaté que la deuxième vanne ne fermait plus.
Comme les pièces de rechange manquaient, la réparation a dû attendre la fin de la semaine.
Entre-temps, la pression dans la conduite a été mesurée toutes les heures et notée dans le cahier.
Vendredi, deux mécaniciens ont changé le joint, nettoyé le filtre et remis la machine en marche.
Depuis, l'eau coule régulièrement et personne au village ne s'est plaint.""",
    "Georgian": """სატუმბი სადგური სამშაბათს დილით შემოწმდა და ოპერატორმა აღმოაჩინა, რომ მეორე სარქველი ბოლომდე აღარ იკეტებოდა.
სათადარიგო ნაწილების უქონლობის გამო შეკეთებას კვირის ბოლომდე მოუწია ლოდინი.
ამასობაში მილში წნევას ყოველ საათში ზომავდნენ და ჟურნალში იწერდნენ.
პარასკევს ორმა მექანიკოსმა გამოცვალა შუასადები, გაწმინდა ფილტრი და მანქანა ხელახლა ჩართო.
მას შემდეგ წყალი თანაბრად მოედინება და სოფელში არავის უჩივლია.
უფროსმა მოკლე ანგარიში მოითხოვა, რათა სხვა სადგურებმაც ისწავლონ.""",
    "German": """Das Pumpwerk wurde am Dienstagmorgen überprüft, wobei ein undichtes Rückschlagventil auffiel.
Mangels Ersatzteilen musste die Instandsetzung bis zum Wochenende warten.
Unterdessen wurde der Rohrleitungsdruck stündlich gemessen und ins Betriebstagebuch eingetragen.
Am Freitag wechselten zwei Anlagenmechaniker die Wellendichtung, reinigten den Ansaugfilter und nahmen die Maschine wieder in Betrieb.
Seitdem läuft die Trinkwasserversorgung gleichmäßig, und aus der Gemeinde kamen keine Beschwerden.
Die Betriebsleitung bat um einen Kurzbericht, damit andere Wasserwerke daraus lernen.""",
    "Greek": """Το αντλιοστάσιο ελέγχθηκε το πρωί της Τρίτης και ο χειριστής διαπίστωσε ότι η δεύτερη βάνα δεν έκλεινε πια εντελώς.
Επειδή έλειπαν ανταλλακτικά, η επισκευή έπρεπε να περιμένει μέχρι το τέλος της εβδομάδας.
Στο μεταξύ η πίεση στον σωλήνα μετριόταν κάθε ώρα και γραφόταν στο βιβλίο.
Την Παρασκευή δύο μηχανικοί άλλαξαν τη φλάντζα, καθάρισαν το φίλτρο και έθεσαν πάλι σε λειτουργία το μηχάνημα.
Από τότε το νερό τρέχει ομαλά· ποιος στο χωριό έχει παράπονα;""",
    "Hebrew": """תחנת השאיבה נבדקה ביום שלישי בבוקר, והמפעיל מצא שהשסתום השני אינו נסגר עוד לגמרי.
מאחר שחסרו חלקי חילוף, התיקון נאלץ להמתין עד סוף השבוע.
בינתיים נמדד הלחץ בצינור מדי שעה ונרשם ביומן.
ביום שישי החליפו שני מכונאים את האטם, ניקו את המסנן והפעילו את המכונה מחדש.
מאז המים זורמים בקצב אחיד, ואיש בכפר לא התלונן.
המנהל ביקש דוח קצר, כדי שתחנות אחרות ילמדו ממנו.""",
    "Hindi": """मंगलवार की सुबह पंप स्टेशन की जाँच की गई, और संचालक ने पाया कि दूसरा वाल्व अब पूरी तरह बंद नहीं होता।
पुर्जे न होने के कारण मरम्मत को सप्ताह के अंत तक रुकना पड़ा।
इस बीच हर घंटे पाइप का दबाव नापा गया और रजिस्टर में लिखा गया।
शुक्रवार को दो मिस्त्रियों ने सील बदली, छन्नी साफ़ की और मशीन फिर से चालू कर दी।
तब से पानी बराबर बह रहा है, और गाँव में किसी ने शिकायत नहीं की।""",
    "Hungarian": """A szivattyútelepet kedden reggel ellenőrizték, és a gépkezelő megállapította, hogy a második tolózár már nem zár teljesen.
Mivel alkatrészek hiányoztak, a javításnak a hét végéig várnia kellett.
Közben a csővezeték nyomását óránként megmérték, és beírták az üzemnaplóba.
Pénteken két szerelő kicserélte a tömítést, megtisztította a szűrőt, majd újraindította a berendezést.
Azóta egyenletesen folyik a víz, és a faluban senki sem panaszkodott.
Az üzemvezető rövid jelentést kért, hogy más telepek is tanuljanak belőle.""",
    "Japanese": """火曜日の朝、ポンプ場の点検が行われ、二番目のバルブが完全に閉まらなくなっていることが分かった。
交換部品がなかったため、修理は週末まで待たなければならなかった。
その間、配管の圧力は一時間ごとに測定され、日誌に記録された。
金曜日に二人の整備士がシールを取り替え、フィルターを洗い、機械を再び動かした。
それ以来、水は安定して流れており、村から苦情は出ていない。""",
    "Khmer": """ស្ថានីយបូមទឹកត្រូវបានពិនិត្យនៅព្រឹកថ្ងៃអង្គារ ហើយប្រតិបត្តិករបានរកឃើញថាវ៉ាល់ទីពីរមិនបិទជិតទៀតទេ។
ដោយសារខ្វះគ្រឿងបន្លាស់ ការជួសជុលត្រូវរង់ចាំរហូតដល់ចុងសប្តាហ៍។
ក្នុងពេលនោះ សម្ពាធក្នុងបំពង់ត្រូវបានវាស់រៀងរាល់ម៉ោង ហើយកត់ត្រាក្នុងសៀវភៅ។
នៅថ្ងៃសុក្រ ជាងពីរនាក់បានប្តូរកៅស៊ូ សម្អាតតម្រង ហើយបើកម៉ាស៊ីនឡើងវិញ។
ចាប់ពីពេលនោះមក ទឹកហូរស្មើ ហើយគ្មាននរណាម្នាក់ក្នុងភូមិត្អូញត្អែរទេ។""",
    "Korean": """화요일 아침 펌프장을 점검한 결과 두 번째 밸브가 더는 완전히 닫히지 않았다.
예비 부품이 없어 수리는 주말까지 미뤄졌다.
그동안 관의 압력을 매시간 재어 일지에 적었다.
금요일에 정비사 두 명이 밀봉재를 갈고 여과기를 닦은 뒤 기계를 다시 켰다.
그 뒤로 물이 고르게 흐르고 마을에서 불평하는 사람이 없다.
소장은 다른 곳도 배울 수 있게 짧은 보고서를 써 달라고 했다.
내년에는 낡은 관을 모두 새것으로 바꿀 계획이다.
비용은 군에서 대고 공사는 봄에 시작한다.
주민들은 그날 물을 미리 받아 두어야 한다.""",
    "Lao": """ສະຖານີສູບນ້ຳໄດ້ຖືກກວດໃນຕອນເຊົ້າວັນອັງຄານ ແລະ ຜູ້ຄວບຄຸມພົບວ່າວາວທີສອງປິດບໍ່ສະໜິດອີກແລ້ວ
ຍ້ອນບໍ່ມີອາໄຫຼ່ ການສ້ອມແປງຈຶ່ງຕ້ອງລໍຖ້າຈົນຮອດທ້າຍອາທິດ
ໃນລະຫວ່າງນັ້ນ ຄວາມດັນໃນທໍ່ຖືກວັດແທກທຸກຊົ່ວໂມງ ແລະ ບັນທຶກໄວ້ໃນປຶ້ມ""",
    "Malayalam": """ചൊവ്വാഴ്ച രാവിലെ പമ്പിങ് സ്റ്റേഷൻ പരിശോധിച്ചപ്പോൾ രണ്ടാമത്തെ വാൽവ് പൂർണമായി അടയുന്നില്ലെന്നു കണ്ടെത്തി.
സ്പെയർപാർട്സുകളില്ലാത്തതിനാൽ അറ്റകുറ്റപ്പണികൾ വാരാന്ത്യംവരെ നീട്ടിവയ്‌ക്കേണ്ടിവന്നു.
അതിനിടയിൽ കുഴലിലെ മർദം മണിക്കൂർതോറും അളന്നു പുസ്തകത്തിൽ രേഖപ്പെടുത്തിക്കൊണ്ടിരുന്നു.
വെള്ളിയാഴ്ച രണ്ടു മെക്കാനിക്കുകൾ സീൽ മാറ്റി, അരിപ്പ വൃത്തിയാക്കി, യന്ത്രം വീണ്ടും പ്രവർത്തിപ്പിച്ചു.
അതിനുശേഷം വെള്ളം തുല്യമായി ഒഴുകുന്നു, ഗ്രാമവാസികളാരും പരാതിപ്പെട്ടിട്ടില്ല.
മറ്റു സ്റ്റേഷനുകൾക്കു പഠിക്കാനായി മാനേജർ ഹ്രസ്വമായൊരു റിപ്പോർട്ട് ആവശ്യപ്പെട്ടു.
അടുത്തവർഷം പഴയ പൈപ്പുകളെല്ലാം മാറ്റിസ്ഥാപിക്കാനാണു പഞ്ചായത്തിന്റെ തീരുമാനം.
അറ്റകുറ്റപ്പണിസമയത്തു കുടിവെള്ളം ടാങ്കറുകളിൽ വിതരണംചെയ്യും.""",
    "Persian": """ایستگاه پمپاژ صبح سه‌شنبه بازرسی شد و متصدی دریافت که شیر دوم دیگر کاملاً بسته نمی‌شود.
چون قطعات یدکی موجود نبود، تعمیر باید تا پایان هفته می‌ماند.
در این مدت فشار لوله هر ساعت اندازه‌گیری و در دفتر نوشته می‌شد.
روز جمعه دو مکانیک واشر را عوض کردند، صافی را شستند و دستگاه را دوباره راه انداختند.
از آن پس آب یکنواخت جریان دارد و کسی در روستا شکایتی نکرده است.""",
    "Russian": """Во вторник утром насосную станцию проверили, и оператор обнаружил, что вторая задвижка больше не закрывается.
Поскольку запасных частей не было, ремонт пришлось отложить до конца недели.
Тем временем давление в трубопроводе ежечасно измеряли и записывали в журнал.
В пятницу два механика заменили уплотнение, промыли фильтр и снова запустили установку.
С тех пор вода подаётся равномерно, и никто в деревне не жаловался.
Начальник попросил составить краткий отчёт, чтобы другие станции извлекли из него пользу.""",
    "Swahili": """Kituo cha pampu kilikaguliwa Jumanne asubuhi, na mhudumu aligundua kwamba vali ya pili haifungi tena kabisa.
Kwa sababu vipuri havikuwepo, matengenezo yalilazimika kusubiri hadi mwisho wa wiki.
Wakati huo shinikizo la bomba lilipimwa kila saa na kuandikwa kwenye daftari.
Siku ya Ijumaa mafundi wawili walibadilisha kizibo, wakasafisha chujio na kuwasha mashine tena.
Tangu wakati huo maji yanatiririka vizuri, wala hakuna mtu kijijini aliyelalamika.""",
    "Tamil": """செவ்வாய்க்கிழமை காலை நீரேற்று நிலையம் பரிசோதிக்கப்பட்டபோது இரண்டாவது அடைப்பான் முழுமையாக மூடவில்லை என்று கண்டறியப்பட்டது.
உதிரிபாகங்கள் இல்லாததால் பழுதுபார்ப்புப்பணி வாரயிறுதிவரை காத்திருக்கவேண்டியிருந்தது.
இதற்கிடையில் குழாயின் அழுத்தம் மணிக்கொருமுறை அளவிடப்பட்டுப் பதிவேட்டில் எழுதப்பட்டது.
வெள்ளிக்கிழமை இரண்டு பொறியாளர்கள் அடைப்பை மாற்றி, வடிகட்டியைச் சுத்தம்செய்து, இயந்திரத்தை மீண்டும் இயக்கினார்கள்.
அதன்பிறகு தண்ணீர் சீராகப் பாய்கிறது, கிராமத்தில் யாரும் புகார் கூறவில்லை.
மற்ற நிலையங்களும் கற்றுக்கொள்ளும்பொருட்டு மேலாளர் சுருக்கமான அறிக்கையொன்றைக் கேட்டார்.""",
    "Telugu": """మంగళవారం ఉదయం పంపింగ్ కేంద్రాన్ని తనిఖీ చేసినప్పుడు రెండవ కవాటం పూర్తిగా మూసుకోవడం లేదని గుర్తించారు.
విడిభాగాలు లేకపోవడంవల్ల మరమ్మతులు వారాంతంవరకు ఆగవలసివచ్చింది.
ఈలోగా గొట్టంలోని పీడనాన్ని గంటగంటకూ కొలిచి పుస్తకంలో రాశారు.
శుక్రవారం ఇద్దరు మెకానిక్‌లు సీలు మార్చి, వడపోతను శుభ్రంచేసి, యంత్రాన్ని మళ్లీ నడిపారు.""",
    "Thai": """สถานีสูบน้ำได้รับการตรวจสอบในเช้าวันอังคาร และผู้ควบคุมพบว่าวาล์วตัวที่สองปิดไม่สนิทอีกต่อไป
เนื่องจากไม่มีอะไหล่ การซ่อมจึงต้องรอจนถึงปลายสัปดาห์
ระหว่างนั้นมีการวัดความดันในท่อทุกชั่วโมงและจดลงในสมุด
วันศุกร์ช่างสองคนเปลี่ยนซีล ล้างไส้กรอง แล้วเปิดเครื่องอีกครั้ง
ตั้งแต่นั้นมาน้ำไหลสม่ำเสมอ และไม่มีใครในหมู่บ้านร้องเรียน""",
    "Tibetan": """གཟའ་མིག་དམར་གྱི་སྔ་དྲོ་ཆུ་འཐེན་ས་ཚིགས་ལ་བརྟག་དཔྱད་བྱས་པ་དང་། ལས་མིས་ཆུ་སྒོ་གཉིས་པ་ཡོངས་སུ་མི་རྒྱག་པ་རྙེད།
ལྷུ་ལག་མེད་པའི་རྐྱེན་གྱིས་བཟོ་བཅོས་གཟའ་མཇུག་བར་སྒུག་དགོས་བྱུང་།
དེའི་རིང་ལ་སྦུབས་ནང་གི་གནོན་ཤུགས་ཆུ་ཚོད་རེ་རེར་ཚད་བཅལ་ནས་དེབ་ཏུ་བཀོད།
གཟའ་པ་སངས་ལ་བཟོ་བ་གཉིས་ཀྱིས་འགྱིག་བརྗེས། ཚགས་མ་བཀྲུས། འཕྲུལ་འཁོར་ཡང་བསྐྱར་སྒྲིག་པ་རེད།
དེ་ནས་བཟུང་ཆུ་ཆ་སྙོམས་ངང་རྒྱུག་བཞིན་ཡོད་ལ། གྲོང་གསེབ་ཀྱི་མི་སུས་ཀྱང་སྐྱོན་བརྗོད་མ་བྱས།
འགོ་ཁྲིད་ཀྱིས་ས་ཚིགས་གཞན་གྱིས་སློབ་སྦྱོང་བྱེད་པར་སྙན་ཞུ་ཐུང་ངུ་ཞིག་འབྲི་རུ་བཅུག""",
    "Turkish": """Pompa istasyonu salı sabahı denetlendi ve işletmeci ikinci vananın artık tamamen kapanmadığını belirledi.
Yedek parça bulunmadığından onarım hafta sonuna kadar ertelenmek zorunda kaldı.
Bu arada borudaki basınç saat başı ölçülüp işletme defterine kaydedildi.
Cuma günü iki teknisyen contayı değiştirdi, süzgeci temizledi ve makineyi yeniden çalıştırdı.
O günden beri su düzenli akıyor, köyde kimse şikâyetçi olmadı.
Müdür, öteki istasyonların da yararlanabilmesi için kısa bir rapor istedi.""",
    "Urdu": """منگل کی صبح پمپ گھر کا معائنہ کیا گیا اور معلوم ہوا کہ دوسرا والو اب پوری طرح بند نہیں ہوتا۔
پرزے نہ ہونے کی وجہ سے مرمت کو ہفتے کے آخر تک رکنا پڑا۔
اس دوران نل کا دباؤ ہر گھنٹے ناپا گیا اور رجسٹر میں لکھا گیا۔
جمعے کو دو مستریوں نے سیل بدلی، چھلنی صاف کی اور مشین دوبارہ چلا دی۔
تب سے پانی برابر بہہ رہا ہے اور گاؤں میں کسی نے شکایت نہیں کی۔""",
    "Vietnamese": """Sáng thứ ba, trạm bơm đã được kiểm tra, và thợ máy thấy van số hai bị hở.
Do ta hết đồ dự trữ, nên phải đợi đến cuối tuần mới sửa.
Trong lúc đó, cứ mỗi giờ họ lại đo áp lực ở ống và ghi vào sổ.
Thứ sáu, hai thợ đã thay vòng đệm, rửa bộ lọc và cho máy chạy lại.
Từ đó nước chảy đều, cả làng không ai kêu ca gì nữa.
Ông giám đốc bảo viết một bản báo cáo ngắn, để các trạm khác học theo.""",
    "Yoruba": """Wọ́n yẹ ibùdó ẹ̀rọ omi wò ní àárọ̀ ọjọ́ Ìṣẹ́gun, wọ́n sì rí i pé ìdènà kejì kò tì dáadáa mọ́.
Nítorí pé kò sí ohun èlò, àtúnṣe náà ní láti dúró di òpin ọ̀sẹ̀.
Ní àsìkò yẹn wọ́n ń wọn agbára omi ní wákàtí kọ̀ọ̀kan, wọ́n sì ń kọ ọ́ sínú ìwé.
Ní ọjọ́ Ẹtì àwọn òṣìṣẹ́ méjì pààrọ̀ ìdè, wọ́n fọ asẹ́, wọ́n sì tún tan ẹ̀rọ náà.
Láti ìgbà náà omi ń ṣàn dáadáa, kò sì sí ẹni tó ráhùn ní abúlé.""",
}
